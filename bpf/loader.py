"""Compiling and loading egress.c. The only module that imports bcc, and only the attaching process calls it.

bcc wants the running kernel's headers; the small tree in kernel/ stands in for the few it really needs, and the rest comes
from linux-libc-dev. bcc itself is the distribution's package (python3-bpfcc).

The program's maps are opened here, by their pins, and bcc gets their descriptors' numbers: so CAP_BPF, CAP_NET_ADMIN and
CAP_PERFMON are enough. Without the last one the verifier lets no program compare pointers, and guards each access against
speculation, which costs packets time.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from . import syscall
from .errors import RefusedError

_SOURCES = Path(__file__).parent
_ENTRY = b"qosctl_egress"
_KERNEL_SOURCE = "BCC_KERNEL_SOURCE"  # read by bcc when it compiles
_STATE_MAPS, _DEVICE_MAPS = ("control", "policy", "flow_slots", "rings"), ("counters",)


def load(state: Path, device: Path, *, ethernet: bool) -> int:
    """Load the program for one device and return its descriptor.

    `state` and `device` are the folders of pins that its maps are taken from; `ethernet` says whether packets there begin
    with an Ethernet header. RefusedError where bcc or headers are missing, or the kernel's verifier says no.
    """
    if not Path("/usr/include/linux/bpf.h").exists():
        raise RefusedError("the kernel's user-space headers are missing", "apt install linux-libc-dev")
    try:
        from bcc import BPF  # noqa: PLC0415 - 100 MB that only the attaching process shall pay
    except ImportError as error:
        raise RefusedError("bcc is missing", "apt install python3-bpfcc, and a venv with --system-site-packages") from error
    flags = [
        f"-DLINK_ETHERNET={int(ethernet)}",
        f"-I{_SOURCES}",
        "-I/usr/include",
        f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}",
    ]
    pins = [state / name for name in _STATE_MAPS] + [device / name for name in _DEVICE_MAPS]
    with _kernel_source(), ExitStack() as stack:
        flags += _descriptors(pins, stack)
        try:
            module = BPF(src_file=os.fsencode(_SOURCES / "egress.c"), cflags=flags)
            program = module.load_func(_ENTRY, BPF.SCHED_CLS)
        except Exception as error:  # bcc raises nothing more precise
            raise RefusedError(f"the kernel did not take the program: {error}", "dmesg | tail") from error
    descriptor = os.dup(program.fd)
    module.cleanup()
    return descriptor


def _descriptors(pins: Sequence[Path], stack: ExitStack) -> Iterator[str]:
    """Open what is pinned, and yield for each map the name that the program has for its descriptor."""
    for pin in pins:
        with suppress(FileNotFoundError):  # a program that needs it does not compile
            descriptor = syscall.obj_get(str(pin))
            stack.callback(os.close, descriptor)
            yield f"-D{pin.name.upper()}_MAP={descriptor}"


@contextmanager
def _kernel_source() -> Iterator[None]:
    before = os.environ.get(_KERNEL_SOURCE)
    os.environ[_KERNEL_SOURCE] = str(_SOURCES / "kernel")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KERNEL_SOURCE]
        else:
            os.environ[_KERNEL_SOURCE] = before
