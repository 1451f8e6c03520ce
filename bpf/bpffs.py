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

from . import trusted
from .errors import BusyError, NoPermissionError, NotAttachedError, RefusedError, UntrustedError

MOUNT_POINT = Path("/sys/fs/bpf")
ROOT = MOUNT_POINT / "qosctl"
_BUILDING, _GOING = "new_", "old_"
_LOCK_PATIENCE = 20.0  # seconds; an attach takes well below one
_LOCK_POLL = 0.02


def ensure_mounted() -> None:
    """Mount the BPF file system where nobody has yet, as tc and bpftool do."""
    if is_bpffs(MOUNT_POINT):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", 0, b"mode=0700") != 0:
        error = ctypes.get_errno()
        raise (
            no_permission()
            if error in (1, 13)
            else RefusedError(
                f"cannot mount the BPF file system at {MOUNT_POINT}: {os.strerror(error)}",
                f"mount -t bpf -o mode=0700 bpf {MOUNT_POINT}",
            )
        )


def is_bpffs(path: Path) -> bool:
    """Whether the BPF file system is mounted at this very path."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    return any(line.split()[1:3] == [str(path), "bpf"] for line in mounts.splitlines())


def no_permission() -> NoPermissionError:
    """Return the error for a caller who lacks the privilege."""
    return NoPermissionError("this needs CAP_SYS_ADMIN and CAP_NET_ADMIN", "run it as root")


@contextmanager
def locked(*, wait: bool = True) -> Iterator[None]:
    """Hold the one lock that all commands which change something take, whatever the namespace.

    The lock goes with its process, so a killed command leaves none behind. BusyError where another process keeps it: at
    once without `wait`, else after 20 s. NotAttachedError where there is no BPF file system to hold any pins;
    UntrustedError where others could change the pins.
    """
    if not is_bpffs(MOUNT_POINT):
        raise NotAttachedError("nothing is attached: there is no BPF file system here", "qosctl attach IFACE")
    fd = _open_root()
    try:
        _take(fd, _LOCK_PATIENCE if wait else 0)
        _sweep(fd)
        yield
    finally:
        os.close(fd)


def _open_root() -> int:
    """Open the folder of all pins, made where it is missing; it is refused unless only we can change what is in it."""
    try:
        return trusted.make_folder(ROOT, 0o700)
    except UntrustedError as error:
        raise _mended(error) from None
    except PermissionError as error:
        raise no_permission() from error


def _mended(error: UntrustedError) -> UntrustedError:
    """Say what to do about the folder of pins itself. Whatever is in another's is nothing that we would take over."""
    stranger = ROOT.is_symlink() or (ROOT.exists() and ROOT.stat().st_uid != os.geteuid())
    return UntrustedError(error.message, f"rm -r {ROOT}, and attach again") if stranger else error


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
    """Remove what a command was building or taking apart when it was killed."""
    for name in trusted.names(root):
        if name.startswith((_BUILDING, _GOING)):
            trusted.remove(name, root)


def remove_tree(path: Path) -> None:
    """Remove a folder of pins with all in it; nothing there is fine."""
    try:
        parent = trusted.open_folder(path.parent)
    except FileNotFoundError:
        return
    try:
        trusted.remove(path.name, parent)
    finally:
        os.close(parent)
