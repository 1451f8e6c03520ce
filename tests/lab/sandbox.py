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
import tempfile
from pathlib import Path
from types import FrameType

_CLONE_NEWNS = 0x0002_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_SYMBOLS = "/proc/kallsyms"

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


def show_few_kernel_symbols() -> None:
    """Let bcc find the one symbol that it asks for among few: a fifth of each compile goes into reading 200,000 of them.

    Call it in the sandbox; in one within another it does nothing. What is shown are the kernel's own lines: those of the
    functions for BPF programs, by which bpftool names what a program calls.
    """
    if Path(_SYMBOLS).stat().st_dev != Path("/proc").stat().st_dev:
        return
    with tempfile.NamedTemporaryFile(prefix="qosctl-kallsyms-") as few:
        few.writelines(line for line in Path(_SYMBOLS).read_bytes().splitlines(keepends=True) if b"bpf_" in line)
        few.flush()
        Path(few.name).chmod(0o644)
        _check(_libc.mount(few.name.encode(), _SYMBOLS.encode(), None, _MS_BIND, None), f"bind to {_SYMBOLS}")


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
