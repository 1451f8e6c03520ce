"""System calls that a client and its helper give up for good when they are ready: seccomp(2), by libseccomp.

Calls that take a capability fail anyway (`privileges`). Refused here are calls that need none: those that reach other
processes, and those into parts of the kernel that neither uses and whose faults have given root away before. Such a call
fails with EPERM, and nothing is logged.

Both lists say what is given up, not what is kept: the C library's resolver may load anything in a client, and the helper's
filter holds for vpnc-script and all that it runs, too.

Numbers are those of the kernel's headers: asm-generic/fcntl.h, ioctls.h and sockios.h, linux/sched.h, bpf.h and socket.h.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import termios
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qosctl.bpf.errors import RefusedError

_F_SETOWN_EX = 15
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_TIOCLINUX = 0x541C
_CLONE_THREAD = 0x0001_0000
_BPF_MAP_LOOKUP_ELEM, _BPF_PROG_LOAD = 1, 5
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_WORD = 0xFFFF_FFFF


@dataclass(frozen=True)
class Given:
    """A system call that is given up, wholly or where one of its arguments compares so."""

    call: str
    argument: int = 0
    comparison: str = ""
    """libseccomp's name; without one, whatever the arguments are."""
    numbers: tuple[int, ...] = ()
    error: int = errno.EPERM


def _calls(*names: str) -> tuple[Given, ...]:
    return tuple(Given(name) for name in names)


def _equal(call: str, argument: int, *values: int) -> tuple[Given, ...]:
    """As the kernel reads it: 32 bits, whatever the caller puts into the upper half of the register."""
    return tuple(Given(call, argument, "MASKED_EQ", (_WORD, value)) for value in values)


_NOBODYS = (
    *_calls("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
    *_calls("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
    *_calls("userfaultfd", "perf_event_open", "lookup_dcookie", "open_by_handle_at"),
    *_calls("io_uring_setup", "io_uring_enter", "io_uring_register"),
)
HELPERS = (*_NOBODYS, *_equal("bpf", 0, _BPF_PROG_LOAD))
"""What neither a helper does nor what vpnc-script runs.

Not here: mounts and namespaces, with which programs shut themselves in, and keys, which PAM asks for where a hook runs a
command as another user.
"""
_SINGLE = (
    *_NOBODYS,
    *_calls("execve", "execveat", "fork", "vfork"),
    Given("clone", 0, "MASKED_EQ", (_CLONE_THREAD, 0)),  # a process
    Given("clone3", error=errno.ENOSYS),  # a filter cannot see its flags; the C library begins threads by clone(2) then
    *_calls("mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
    *_calls("pivot_root", "chroot", "unshare", "setns"),
    *_calls("add_key", "request_key", "keyctl"),
    *(Given("socket", 0, "MASKED_EQ", (_WORD, family)) for family in range(max(_FAMILIES)) if family not in _FAMILIES),
    Given("socket", 0, "GT", (max(_FAMILIES),)),
    # A terminal takes these for what is typed: the shell that it goes back to, root's maybe, would run it.
    *_equal("ioctl", 1, termios.TIOCSTI, _TIOCLINUX),
    # Other processes of its user: their signals, also those that input brings, and their share of the processors.
    *_calls("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "process_mrelease"),
    *_equal("fcntl", 1, fcntl.F_SETOWN, _F_SETOWN_EX),
    *_equal("ioctl", 1, _FIOSETOWN, _SIOCSPGRP),
    *_calls("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "setpriority", "ioprio_set"),
    *_calls("migrate_pages", "move_pages"),
    Given("prlimit64", 0, "NE", (0,)),
)


def clients(pid: int) -> tuple[Given, ...]:
    """Return what the client that is process `pid` does not do: all that `exporters` do not, and of bpf(2) it needs a look.

    That is at the switch, by a descriptor that it was given.
    """
    return (*_alone(pid), Given("bpf", 0, "NE", (_BPF_MAP_LOOKUP_ELEM,)))


def exporters(pid: int) -> tuple[Given, ...]:
    """Return what the process `pid` that answers scrapes does not do: begin processes, touch others, load programs."""
    return (*_alone(pid), *_equal("bpf", 0, _BPF_PROG_LOAD))


def _alone(pid: int) -> tuple[Given, ...]:
    return (*_SINGLE, Given("kill", 0, "NE", (pid,)), Given("tgkill", 0, "NE", (pid,)))


def give_up(given: Iterable[Given], *, foreign: bool) -> None:
    """Do without these from now on, as all do that are begun here. To be called before any thread is started.

    `foreign`: whether programs for the kernel's other instruction set (i386 on x86_64) may run, under the same rules; else
    they fail. RefusedError, and nothing is given up, where there is no libseccomp or the kernel takes no filter.
    """
    try:
        import seccomp  # noqa: PLC0415 - the distribution's, and not on every machine
    except ImportError as error:
        raise RefusedError("python3-seccomp is missing") from error
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    try:
        fill(rules, given, foreign=foreign)
        rules.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise RefusedError(f"the filter of system calls: {error}") from error


def fill(rules: Any, given: Iterable[Given], *, foreign: bool) -> None:
    """Put into libseccomp's filter what it shall let fail. RefusedError where arguments may stand in another order."""
    import seccomp  # noqa: PLC0415 - as above

    if rules.exist_arch(seccomp.Arch.X86_64):
        other = seccomp.Arch.X86
    elif rules.exist_arch(seccomp.Arch.AARCH64):
        other = seccomp.Arch.ARM
    else:
        raise RefusedError("what system calls this processor has is not known")
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(errno.EPERM))
    if foreign:
        rules.add_arch(other)
    for each in given:
        where = [seccomp.Arg(each.argument, getattr(seccomp, each.comparison), *each.numbers)] if each.comparison else []
        rules.add_rule(seccomp.ERRNO(each.error), each.call, *where)
