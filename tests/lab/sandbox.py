"""A mount namespace of our own, so that names and pins cannot leak into the machine.

The process moves itself (no second process that Ctrl-C could miss), and only what it starts afterwards follows. In
the sandbox /run/netns and /run/qosctl are an empty tmpfs each, and /sys/fs/bpf an empty BPF file system; all go when the
last process in it has ended, and with them every namespace and every pinned object that nothing else holds.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from pathlib import Path
from types import FrameType

_CLONE_NEWNS = 0x0002_0000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def enter_sandbox() -> None:
    """Give this process its own mounts for namespace names, BPF pins and what is to be undone; a second call does nothing.

    Call it before threads are started: they would stay outside. PermissionError when not root.
    """
    if os.geteuid() != 0:
        raise PermissionError("the lab builds network namespaces: run it as root")
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "make / private")
    for place in ("/run/netns", "/run/qosctl"):
        Path(place).mkdir(mode=0o755, exist_ok=True)
        _mount("tmpfs", place, b"mode=0755")
    _mount("bpf", "/sys/fs/bpf", b"mode=0700")


def unwind_on_signals() -> None:
    """Let SIGINT and SIGTERM unwind the context managers, once: a second Ctrl-C must not cut the cleaning short."""

    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _mount(kind: str, target: str, options: bytes | None = None) -> None:
    _check(_libc.mount(kind.encode(), target.encode(), kind.encode(), 0, options), f"mount {kind} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
