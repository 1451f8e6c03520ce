"""The BPF file system: where pins live, and who may touch them.

    /sys/fs/bpf/qosctl/<namespace cookie>/      control, policy, flow_slots, rings, namespace
                                         devices/<ifindex>/      counters, program, link (TCX only)
                                         flows/<ring's id>/      ring, owner

The pins are the state: nothing is remembered anywhere else, and a reboot forgets it all. They are all root's. Folders are
built under another name and renamed, and renamed before they are taken apart, so that they are there whole or not at all.
What a killed command left under such a name goes when the next one takes the lock, in whatever namespace; so do the pins of
namespaces that are gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qosctl.bpf.errors import PRIVILEGE, BusyError, NoPermissionError, NotAttachedError, RefusedError, UntrustedError
from qosctl.bpf.kernel import netns, trusted_folders
from qosctl.bpf.kernel.descriptors import opened

MOUNT_POINT = Path("/sys/fs/bpf")
ROOT = MOUNT_POINT / "qosctl"
WITNESS = "namespace"
"""The pin that says whether a folder's network namespace is still there (netns.py)."""
_BUILDING, _GOING, _HELD = "new_", "old_", "held_"
_LOCK_PATIENCE = 20.0  # seconds; an attach takes well below one
_LOCK_POLL = 0.02


def ensure_mounted() -> None:
    """Mount the BPF file system where nobody has yet, as tc and bpftool do."""
    if is_bpffs(MOUNT_POINT):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", 0, b"mode=0700") != 0:
        error = ctypes.get_errno()
        hint = f"mount -t bpf -o mode=0700 bpf {MOUNT_POINT}"
        if error in (1, 13):
            raise NoPermissionError(f"no BPF file system at {MOUNT_POINT}, and mounting it needs CAP_SYS_ADMIN", hint)
        raise RefusedError(f"cannot mount the BPF file system at {MOUNT_POINT}: {os.strerror(error)}", hint)


def is_bpffs(path: Path) -> bool:
    """Whether the BPF file system is mounted at this very path."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    return any(line.split()[1:3] == [str(path), "bpf"] for line in mounts.splitlines())


def no_permission() -> NoPermissionError:
    """Return the error for a caller who lacks the privilege."""
    return NoPermissionError(f"this needs {PRIVILEGE}", "run it as root")


@contextmanager
def locked(*, wait: bool = True) -> Iterator[None]:
    """Hold the one lock that all commands which change something take, whatever the namespace.

    The lock goes with its process, so a killed command leaves none behind. BusyError where another process keeps it: at
    once without `wait`, else after 20 s. NotAttachedError where there is no BPF file system to hold any pins;
    UntrustedError where others could change the pins.
    """
    if not is_bpffs(MOUNT_POINT):
        raise NotAttachedError("nothing is attached: there is no BPF file system here", "qosctl attach IFACE")
    with opened(_open_root()) as fd:
        _take(fd, _LOCK_PATIENCE if wait else 0)
        _sweep(fd)
        yield


def present(path: Path) -> bool:
    """Whether this folder of pins is there; UntrustedError where others than root and we could change what is in it."""
    try:
        with _hints():
            os.close(trusted_folders.open_folder(path))
    except FileNotFoundError:
        return False
    return True


def _open_root() -> int:
    """Open the folder of all pins, made where it is missing."""
    try:
        with _hints():
            return trusted_folders.make_folder(ROOT, 0o700)
    except PermissionError as error:
        raise no_permission() from error


@contextmanager
def _hints() -> Iterator[None]:
    """Say what to do about another's folder among the pins: what is in it is nothing that we would take over."""
    try:
        yield
    except UntrustedError as error:
        if error.foreign and error.place.is_relative_to(ROOT):
            error.hint = f"rm -r {error.place}, and attach again"
        raise


def _take(fd: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(_busy(patience), f"fuser -v {ROOT}") from None
            time.sleep(_LOCK_POLL)
        else:
            return


def _busy(patience: float) -> str:
    return f"another qosctl has been at work for {patience:.0f} s" if patience else "another qosctl is at work"


def building_place(path: Path) -> Path:
    """Return where the folder `path` is put together before it is renamed into place."""
    return ROOT / f"{_BUILDING}{_flat(path)}"


def discard(path: Path) -> None:
    """Let a folder of pins vanish at once, then take it apart; nothing there is fine."""
    going = ROOT / f"{_GOING}{_flat(path)}"
    try:
        path.rename(going)
    except FileNotFoundError:
        return
    remove_tree(going)


def _flat(path: Path) -> str:
    return "_".join(path.relative_to(ROOT).parts)


def _sweep(root: int) -> None:
    """Remove what a command was building or taking apart when it was killed, and what is of no use to anybody any more."""
    for name in trusted_folders.names(root):
        if name.startswith((_BUILDING, _GOING)) or (name.startswith(_HELD) and not _is_held(name, root)):
            trusted_folders.remove(name, root)
        elif _is_litter(name):
            discard(ROOT / name)


def litter() -> bool:
    """Whether there are pins of a namespace that is gone: whoever takes the lock next sweeps them up."""
    try:
        with _hints():
            root = trusted_folders.open_folder(ROOT)
    except FileNotFoundError:
        return False
    with opened(root):
        return any(_is_litter(name) for name in trusted_folders.names(root))


def _is_litter(name: str) -> bool:
    return name.isdigit() and netns.is_gone(str(ROOT / name / WITNESS))


def hold(name: str) -> int:
    """Take a place of this name for as long as the returned descriptor is open; BusyError where another process has it.

    Callers hold the lock.
    """
    place = ROOT / f"{_HELD}{name}"
    fd = trusted_folders.make_folder(place, 0o700)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BusyError(f"another process has {name}", f"fuser -v {place}") from None
    return fd


def _is_held(name: str, root: int) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def remove_tree(path: Path) -> None:
    """Remove a folder of pins with all in it; nothing there is fine."""
    try:
        with _hints():
            parent = trusted_folders.open_folder(path.parent)
    except FileNotFoundError:
        return
    with opened(parent):
        trusted_folders.remove(path.name, parent)
