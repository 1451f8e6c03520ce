"""Can we run here: what the kernel and the machine offer, tried where that is possible, and what a missing piece costs."""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from qosctl.bpf.kernel import bpffs, syscall
from qosctl.supervisor.doctor import netlink
from qosctl.supervisor.doctor.finding import Finding, failed, passed, warned
from qosctl.supervisor.doctor.netlink import Netlink, attribute

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_NEEDED = {"CAP_NET_ADMIN": ("CAP_NET_ADMIN",), "CAP_BPF": ("CAP_BPF", "CAP_SYS_ADMIN"),
           "CAP_PERFMON": ("CAP_PERFMON", "CAP_SYS_ADMIN")}  # fmt: skip
"""What attaching takes, and what stands for it (capabilities(7))."""
_LOOPBACK = 1  # in every network namespace
_CLSACT_PARENT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_KIND = 1  # TCA_KIND
_EPERM, _EINVAL, _ENOSYS = 1, 22, 38
_LOCKDOWN = "sys/kernel/security/lockdown"
_ONE_CELL = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, 8, 1)


def here(root: Path = Path("/")) -> Iterator[Finding]:
    """Yield what can be read off the machine whose tree is at `root`."""
    yield passed("kernel", f"Linux {platform.release()} on {platform.machine()}")
    yield _capabilities(root)
    yield _bcc()
    yield _headers(root)
    yield _bpffs()
    yield _lockdown(root)
    yield _unprivileged(root)
    yield _btf(root)
    yield _tun(root)


def tried() -> list[Finding]:
    """Try BPF and both hooks in the network namespace that we are in, which must be a throw-away one."""
    tcx = _errno(lambda: syscall.tcx_programs(_LOOPBACK))
    clsact = _try_clsact()
    return [_bpf(_try_map()), _tcx(tcx), _clsact(clsact, has_tcx=tcx == 0)]


def _capabilities(root: Path) -> Finding:
    status = (root / "proc/self/status").read_text(encoding="utf-8", errors="replace")
    held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    has = {name for name, bit in _CAPABILITIES.items() if held >> bit & 1}
    missing = [name for name, enough in _NEEDED.items() if has.isdisjoint(enough)]
    if missing:
        return warned(
            "capabilities", f"this process lacks {' and '.join(missing)}",
            "it cannot attach, switch or see what is attached; some checks below could not look", "sudo qosctl doctor",
        )  # fmt: skip
    return passed("capabilities", f"this process has {', '.join(sorted(has))}")


def _bcc() -> Finding:
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return failed(
            "bcc", "bcc is not installed for this Python", "the program cannot be compiled, so nothing can be attached",
            "apt install python3-bpfcc, and a venv made with --system-site-packages",
        )  # fmt: skip
    where = Path(found.origin).parent
    if not (where / "libbcc.py").exists():
        return failed(
            "bcc", f"the package bcc in {where.parent} is another project of that name", "nothing can be attached",
            "pip uninstall bcc; apt install python3-bpfcc",
        )  # fmt: skip
    return passed("bcc", f"bcc is in {where.parent}")


def _headers(root: Path) -> Finding:
    if not (root / "usr/include/linux/bpf.h").exists():
        return failed(
            "headers", "/usr/include/linux/bpf.h is missing", "the program cannot be compiled, so nothing can be attached",
            "apt install linux-libc-dev",
        )  # fmt: skip
    return passed("headers", "the user-space headers are there; the kernel's own are not needed")


def _bpffs() -> Finding:
    if not bpffs.is_bpffs(bpffs.MOUNT_POINT):
        return warned(
            "bpffs", f"no BPF file system at {bpffs.MOUNT_POINT}",
            "nothing is attached by us; attach mounts it, a container may not be allowed to",
            f"mount -t bpf -o mode=0700 bpf {bpffs.MOUNT_POINT}",
        )  # fmt: skip
    return passed("bpffs", f"the BPF file system is mounted at {bpffs.MOUNT_POINT}")


def _lockdown(root: Path) -> Finding:
    mode = _content(root / _LOCKDOWN)
    if "[confidentiality]" in mode:
        return warned(
            "lockdown", "the kernel is locked down for confidentiality",
            "it may refuse BPF programs", "boot with lockdown=integrity, or without Secure Boot",
        )  # fmt: skip
    return passed("lockdown", f"kernel lockdown: {mode or 'not in use'}")


def _unprivileged(root: Path) -> Finding:
    value = _content(root / "proc/sys/kernel/unprivileged_bpf_disabled") or "not known"
    return passed("unprivileged-bpf", f"unprivileged_bpf_disabled is {value}: no matter, attach is privileged anyway")


def _btf(root: Path) -> Finding:
    there = (root / "sys/kernel/btf/vmlinux").exists()
    return passed("btf", f"the kernel {'has' if there else 'has no'} type information: not needed")


def _tun(root: Path) -> Finding:
    if not (root / "dev/net/tun").exists():
        return failed(
            "tun", "/dev/net/tun is missing", "`qosctl connect` cannot make its tunnel device",
            "modprobe tun; in a container: --device /dev/net/tun",
        )  # fmt: skip
    return passed("tun", "/dev/net/tun is there")


def _bpf(error: int) -> Finding:
    if error == _ENOSYS:
        return failed("bpf", "this kernel has no bpf(2)", "nothing can be attached", "a kernel with CONFIG_BPF_SYSCALL")
    if error:
        return _refused("bpf", "bpf(2)", error, "whether programs can be loaded is not known")
    return passed("bpf", "bpf(2) made a map")


def _tcx(error: int) -> Finding:
    if error == _EPERM:
        return _refused("tcx", "asking for TCX", error, "whether it can be used is not known")
    if error:
        return warned(
            "tcx", f"this kernel has no TCX ({os.strerror(error)})",
            "attach uses clsact, where filters of a lower priority number run before ours", "none needed; Linux 6.6 has it",
        )  # fmt: skip
    return passed("tcx", "TCX is there")


def _clsact(error: int, *, has_tcx: bool) -> Finding:
    if not error:
        return passed("clsact", "clsact is there")
    if has_tcx:
        return warned(
            "clsact", f"no clsact qdisc ({os.strerror(error)})", "`attach --hook clsact` will not work; TCX does",
            "modprobe sch_ingress",
        )  # fmt: skip
    return failed(
        "clsact", f"neither TCX nor clsact ({os.strerror(error)})", "there is no place where the program could stand",
        "modprobe sch_ingress",
    )  # fmt: skip


def _refused(check: str, what: str, error: int, means: str) -> Finding:
    return warned(check, f"{what} was refused ({os.strerror(error)})", means, "sudo qosctl doctor")


def _try_map() -> int:
    def make() -> None:
        os.close(syscall.map_create(_ONE_CELL, "doctor"))

    return _errno(make)


def _try_clsact() -> int:
    message = struct.pack("=B3xiIII", 0, _LOOPBACK, _CLSACT_HANDLE, _CLSACT_PARENT, 0) + attribute(_KIND, "clsact")
    with Netlink() as here_now:
        return here_now.change(netlink.NEW_QDISC, message).error


def _errno(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or _EINVAL
    return 0


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
