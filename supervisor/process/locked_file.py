"""Small files in /run/qosctl that say what a process has done to the machine, each locked by that process.

    /run/qosctl/<network namespace cookie>-<name>     0600: a JSON object

The lock goes with its process. A file without a lock therefore belongs to a process that has died, and says what of its
doing is to be undone. /run is empty after a reboot, and so is the kernel. Of a namespace that is
gone nothing is left to undo: the next process that makes such a file, in whatever namespace, removes those.

A record is written to another file and renamed over the old one, which therefore stays when /run is full. Nothing
is read, run or removed in a folder that others could change (trusted_folders.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from qosctl.bpf.errors import UntrustedError
from qosctl.bpf.kernel import netns, trusted_folders, witnesses
from qosctl.bpf.kernel.descriptors import opened

_FOLDER = Path("/run/qosctl")
_BYTES_MAX = 1 << 17
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_UNFINISHED = "new:"  # begins no namespace's cookie


TABLE_FILES = "table:"
"""How names begin that are no device's: none of those has a colon. See kill_switch.held."""


class HeldError(Exception):
    """Another process has locked the file; `document` is what it says there."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__("locked")
        self.document = document


class LockedFile:
    """One file. `claim` makes it, `store` says what is to be undone, `forget` ends it."""

    def __init__(self, name: str, folder: int, descriptor: int) -> None:
        """The descriptors of the folder and of the locked file are its own from now on."""
        self._name = name
        self._folder = folder
        self._descriptor = descriptor

    @classmethod
    def claim(cls, name: str) -> LockedFile:
        """Take the file, made or found. HeldError when another process has it; OSError where there is no place for it."""
        try:
            folder = trusted_folders.make_folder(_folder(), 0o755)
        except UntrustedError as error:
            raise PermissionError(1, error.message) from error
        sweep()
        full = f"{netns.cookie()}-{name}"
        try:
            return cls(full, folder, _create_locked(full, folder))
        except BaseException:
            os.close(folder)
            raise

    @property
    def name(self) -> str:
        """What it was claimed by."""
        return self._name.partition("-")[2]

    def read(self) -> dict[str, Any]:
        """Return what it says; nothing where that is no JSON object."""
        return _read(self._descriptor)

    def store(self, document: dict[str, Any]) -> None:
        """Put a locked file with the document in the place of ours: at no time is there half a record, or an open one.

        OSError where there is no room: then it is what it was.
        """
        unfinished = _UNFINISHED + self._name
        trusted_folders.remove(unfinished, self._folder)  # of a process that was killed here
        descriptor = os.open(unfinished, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_whole(descriptor, json.dumps(document).encode())
            os.rename(unfinished, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            os.close(descriptor)
            trusted_folders.remove(unfinished, self._folder)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        witnesses.leave()

    def forget(self) -> None:
        """All is undone. Twice is fine."""
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._folder)
            cookie = _cookie(self._name)
            # A file that is made just now would go without: it stays, should its namespace die before it is forgotten.
            if cookie is not None and all(_cookie(name) != cookie for name in trusted_folders.names(self._folder)):
                witnesses.drop(cookie)
            self.leave()

    def leave(self) -> None:
        """Close it here; another process that had it opened goes on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._folder)
            self._descriptor = self._folder = -1


def sweep() -> None:
    """Remove the files of network namespaces that are gone, where that is proven."""
    try:
        folder = trusted_folders.open_folder(_folder())
    except (OSError, UntrustedError):
        return
    with opened(folder), suppress(OSError):  # a folder that is not ours to change: somebody else will
        gone = witnesses.gone()
        for name in trusted_folders.names(folder):
            if _cookie(name) in gone:
                trusted_folders.remove(name, folder)
        for cookie in gone:
            witnesses.drop(cookie)


def any_file(beginning: str) -> bool:
    """Whether there is a file of this namespace whose name begins so, of any owner."""
    try:
        folder = trusted_folders.open_folder(_folder())
    except (OSError, UntrustedError):
        return False
    with opened(folder):
        return any(name.startswith(f"{netns.cookie()}-{beginning}") for name in trusted_folders.names(folder))


def is_claimed(name: str) -> bool:
    """Whether a living process has the file."""
    try:
        folder = trusted_folders.open_folder(_folder())
    except (OSError, UntrustedError):
        return False
    try:
        descriptor = os.open(f"{netns.cookie()}-{name}", _FLAGS, dir_fd=folder)
    except OSError:
        return False
    finally:
        os.close(folder)
    with opened(descriptor):
        return not _lock(descriptor)


def orphans() -> Iterator[LockedFile]:
    """Yield this namespace's files whose owner has died, each locked while the caller looks at it."""
    mine = f"{netns.cookie()}-"
    try:
        folder = trusted_folders.open_folder(_folder())
    except (OSError, UntrustedError):
        return
    with opened(folder):
        for name in sorted(name for name in trusted_folders.names(folder) if name.startswith(mine)):
            try:
                descriptor = os.open(name, _FLAGS, dir_fd=folder)
            except OSError:
                continue
            orphan = LockedFile(name, os.dup(folder), descriptor)
            # Whose file it is decides whether what is in it may be run.
            if _lock(descriptor) and _is_ours(os.fstat(descriptor)):
                yield orphan
            orphan.leave()


def _cookie(name: str) -> int | None:
    """Return whose namespace's file it is, a half-written one too; None for what is none of ours."""
    text = name.removeprefix(_UNFINISHED).partition("-")[0]
    return int(text) if text.isdecimal() else None


def _create_locked(name: str, folder: int) -> int:
    while True:
        descriptor = os.open(name, _FLAGS | os.O_CREAT, 0o600, dir_fd=folder)
        locked = _lock(descriptor)
        if locked and os.fstat(descriptor).st_nlink:
            return descriptor
        document = _read(descriptor)
        os.close(descriptor)
        if not locked:
            raise HeldError(document)
        # Its last owner was just taking it away.


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_whole(descriptor: int, text: bytes) -> None:
    """A full file system takes less than it is given before it says so."""
    while text:
        text = text[os.write(descriptor, text) :]


def _folder() -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY") or _FOLDER)  # systemd's, RuntimeDirectory=


def _is_ours(status: os.stat_result) -> bool:
    others = stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not others and status.st_nlink == 1


def _read(descriptor: int) -> dict[str, Any]:
    try:
        read = json.loads(os.pread(descriptor, _BYTES_MAX, 0))
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
