"""Folders that no other user can change: opened, made and emptied by descriptor.

Root must not follow a path that another user can redirect. So each folder on the way is opened below the one before it
and never through a link. It has to belong to root or to us, and no other user may write to it. On the way, a sticky
folder (/tmp) will do too: others cannot touch what is ours in it.

Once a folder was opened so, paths below it are as good as descriptors, for as long as what is in it was made by us: only
we can change a name on the way. bpf(2) and bcc take pins by path, and this is why they may.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from qosctl.bpf.errors import UntrustedError
from qosctl.bpf.kernel.descriptors import opened

_ROOT = 0  # the user
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_END = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def open_folder(path: Path) -> int:
    """Return a descriptor of the folder at an absolute path, for the caller to close.

    UntrustedError where somebody else could change what is found there; FileNotFoundError and PermissionError as the
    kernel raises them.
    """
    with opened(_open_parent(path)) as parent:
        return _open_end(path, parent)


def make_folder(path: Path, mode: int) -> int:
    """Make the folder where it is missing, its parent must be there, and return what `open_folder` does.

    It is not made where others may write: they could be there first with one of their own, or with a link. UntrustedError.
    """
    with opened(_open_parent(path)) as parent:
        with suppress(FileNotFoundError):
            return _open_end(path, parent)
        _refuse_others(path.parent, parent, sticky_will_do=False)
        with suppress(FileExistsError):  # made by another process of ours; if not, the next line says so
            os.mkdir(path.name, mode, dir_fd=parent)
        return _open_end(path, parent)


def check_file(path: Path, *, of: int | None = None) -> None:
    """Refuse a file that others than root, we, and the user `of` could change or put another in the place of.

    `path` is absolute and has no link in it. A sticky folder will do, since who owns the file is looked at. UntrustedError;
    OSError as the kernel raises it. What was found stays so until one of those trusted changes it.
    """
    with opened(_open_parent(path, of)) as parent:
        fd = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    with opened(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UntrustedError(path, "is a link, or no file", f"ls -l {path}", foreign=True)
        _refuse_others(path, fd, sticky_will_do=False, of=of)


def names(folder: int) -> list[str]:
    """Return what is in an opened folder, in no order that means anything."""
    return os.listdir(folder)


def remove(name: str, folder: int) -> None:
    """Remove what has this name in an opened folder: of a link the link, of a folder all that is in it; nothing is fine."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=folder)  # by descriptors as well, and through no link
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _open_parent(path: Path, of: int | None = None) -> int:
    """Walk to the folder that `path` is a name in, and look at each on the way."""
    at, seen = os.open("/", _WAY), Path("/")
    try:
        _refuse_others(seen, at, sticky_will_do=True, of=of)
        for name in path.parts[1:-1]:
            seen /= name
            below = _open_below(seen, at, _WAY)
            os.close(at)
            at = below
            _refuse_others(seen, at, sticky_will_do=True, of=of)
    except BaseException:
        os.close(at)
        raise
    return at


def _open_end(path: Path, parent: int) -> int:
    fd = _open_below(path, parent, _END)
    try:
        _refuse_others(path, fd, sticky_will_do=False)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_below(path: Path, parent: int, flags: int) -> int:
    try:
        return os.open(path.name, flags, dir_fd=parent)
    except NotADirectoryError:
        raise UntrustedError(path, "is a link, or no folder", f"ls -ld {path}", foreign=True) from None


def _refuse_others(path: Path, opened: int, *, sticky_will_do: bool, of: int | None = None) -> None:
    status = os.fstat(opened)
    if status.st_uid not in (_ROOT, os.geteuid(), of):
        what = f"belongs to {_name(status.st_uid)}, who could change what is in it"
        raise UntrustedError(path, what, f"ls -ld {path}", foreign=True)
    if status.st_mode & _OTHERS_WRITE and not (sticky_will_do and status.st_mode & stat.S_ISVTX):
        raise UntrustedError(path, "can be changed by others than its owner", f"chmod go-w {path}", foreign=False)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
