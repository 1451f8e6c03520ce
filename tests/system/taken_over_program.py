"""Run `qosctl` in processes that were taken over: `taken_over_program.py FILE VICTIM WORD...`.

At SIGUSR1 each of them tries what an attacker in it would, and adds a line of JSON to FILE: {"pid", "done"}, where each
attempt has what came of it, "done" or the error's name. VICTIM is a process of the same user.

The arguments are such that the kernel takes them, or has another error for them than for what is not permitted.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import termios
import threading
from collections.abc import Callable

import seccomp

_CLONE_NEWUSER, _UFFD_USER_MODE_ONLY, _BPF_PROG_LOAD, _BPF_OBJ_GET = 0x1000_0000, 1, 5, 7
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Listen for the signal, then be `qosctl`."""
    told = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)  # whoever it becomes
    victim = int(sys.argv[2])
    signal.signal(signal.SIGUSR1, lambda *_: try_all(told, victim))
    from qosctl.supervisor.cli.main import main as qosctl  # noqa: PLC0415 - as late as in the command

    return qosctl(sys.argv[3:])


def try_all(told: int, victim: int) -> None:
    """Try everything."""
    done = {name: attempt(do) for name, do in attempts(victim).items()}
    os.write(told, json.dumps({"pid": os.getpid(), "done": done}).encode() + b"\n")


def attempts(victim: int) -> dict[str, Callable[[], object]]:
    """What is tried, in this order."""
    return {
        "own thread": threading.Thread(target=int).start,
        "own signal": lambda: os.kill(os.getpid(), 0),
        "own limit": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "own name server": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "process": _child,
        "program": lambda: os.execv("/nowhere", ["nowhere"]),
        "signal": lambda: os.kill(victim, 0),
        "signals to all": lambda: os.kill(-1, 0),
        "signal by input": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, victim),
        "signal by handle": lambda: os.close(os.pidfd_open(victim)),
        "limit": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (64, 64)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        "processor": lambda: os.sched_setaffinity(victim, os.sched_getaffinity(victim)),
        "keys typed": lambda: fcntl.ioctl(0, termios.TIOCSTI, b"!"),
        "keys typed in an odd way": lambda: call("ioctl", 0, 1 << 32 | termios.TIOCSTI, ctypes.c_char_p(b"!")),
        "unusual socket": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close(),
        "namespace": lambda: call("unshare", _CLONE_NEWUSER),
        "key": lambda: call("keyctl", -1, 0, 0, 0, 0),
        "map by its pin": lambda: call("bpf", _BPF_OBJ_GET, None, 0),
        "BPF program": lambda: call("bpf", _BPF_PROG_LOAD, None, 0),
        "trace": lambda: call("ptrace", -1, 0, 0, 0),
        "memory of others": lambda: call("process_vm_readv", victim, None, 0, None, 0, -1),
        "handle of others": lambda: call("pidfd_getfd", -1, 0, 0),
        "event": lambda: call("perf_event_open", None, 0, -1, -1, 0),
        "ring": lambda: call("io_uring_setup", 1, None),
        "page fault": lambda: os.close(call("userfaultfd", _UFFD_USER_MODE_ONLY)),
    }


def attempt(do: Callable[[], object]) -> str:
    """Return what comes of it."""
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except RuntimeError:  # Python's, for a thread
        return "no thread"
    return "done"


def call(name: str, *arguments: object) -> int:
    """Make a system call by its name."""
    number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _child() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
