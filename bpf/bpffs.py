"""The BPF file system: where pins live, and who may touch them.

    /sys/fs/bpf/qosctl/<namespace cookie>/      control, policy, flows
                                         devices/<ifindex>/      counters, program, link (TCX only)

The pins are the state: nothing is remembered anywhere else, and a reboot forgets it all. Folders are built under another
name and renamed, and renamed before they are taken apart, so that they are there whole or not at all. What a killed command
left under such a name goes when the next one takes the lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import NoPermissionError, NotAttachedError, RefusedError

MOUNT_POINT = Path("/sys/fs/bpf")
ROOT = MOUNT_POINT / "qosctl"
_BUILDING, _GOING = "new_", "old_"
_LOCK_PATIENCE = 20.0  # seconds; an attach takes well below one
_LOCK_POLL = 0.02


def ensure_mounted() -> None:
    """Mount the BPF file system where nobody has yet, as tc and bpftool do."""
    if _is_bpffs(MOUNT_POINT):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", 0, b"mode=0700") != 0:
        error = ctypes.get_errno()
        raise (
            no_permission()
            if error in (1, 13)
            else RefusedError(
                f"cannot mount the BPF file system at {MOUNT_POINT}: {os.strerror(error)}",
                f"mount -t bpf bpf {MOUNT_POINT}",
            )
        )


def _is_bpffs(path: Path) -> bool:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    return any(line.split()[1:3] == [str(path), "bpf"] for line in mounts.splitlines())


def no_permission() -> NoPermissionError:
    """Return the error for a caller who lacks the privilege."""
    return NoPermissionError("this needs CAP_SYS_ADMIN and CAP_NET_ADMIN", "run it as root")


@contextmanager
def locked() -> Iterator[None]:
    """Hold the one lock that all commands which change something take, whatever the namespace.

    The lock goes with its process, so a killed command leaves none behind. NotAttachedError where there is no BPF file
    system to hold any pins.
    """
    if not _is_bpffs(MOUNT_POINT):
        raise NotAttachedError("nothing is attached: there is no BPF file system here", "qosctl attach IFACE")
    try:
        ROOT.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise no_permission() from error
    try:
        _wait_for(fd)
        _sweep()
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RefusedError("another qosctl has been at work for 20 s", f"fuser -v {ROOT}") from None
            time.sleep(_LOCK_POLL)
        else:
            return


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


def _sweep() -> None:
    """Remove what a command was building or taking apart when it was killed."""
    for path in ROOT.iterdir():
        if path.name.startswith((_BUILDING, _GOING)):
            remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a folder of pins with all in it; nothing there is fine."""
    try:
        children = list(path.iterdir())
    except FileNotFoundError:
        return
    for child in children:
        if child.is_dir():
            remove_tree(child)
        else:
            child.unlink(missing_ok=True)
    path.rmdir()
