"""Namespaces that need no cleaning up: they have no name and no mount, and end with the child process that made them.

The child moves itself into fresh network and mount namespaces (in a fresh user namespace where the caller is not root),
does its work, and hands the result back through a pipe. Whatever ends it - an exception, a signal, its parent's death -
takes the namespaces along, with all devices, routes, rules and pins inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from qosctl.bpf.errors import QosctlError, RefusedError
from qosctl.bpf.kernel.descriptors import opened

_NEW_MOUNTS, _NEW_USER, _NEW_NET = 0x0002_0000, 0x1000_0000, 0x4000_0000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PR_SET_PDEATHSIG = 1
_PATIENCE = 20.0  # seconds until a child that says nothing is ended
_CHUNK = 1 << 16
_HELD = (signal.SIGINT, signal.SIGTERM)

_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


class ThrowawayError(RefusedError):
    """The work could not be done; the message says what stopped it."""


@dataclass
class Pending(Generic[Result]):
    """A child at work. `result` waits for it; leaving `started` ends it."""

    pid: int
    pipe: int
    what: str

    def result(self) -> Result:
        """Return what the work returned; ThrowawayError where it failed, died or took too long."""
        raw = _read_all(self.pipe, self.what)
        if not raw:
            raise ThrowawayError(f"{self.what}: the helper process died")
        value: Result | QosctlError = pickle.loads(raw)  # from our own child, over our own pipe
        if isinstance(value, QosctlError):
            raise value
        return value


@contextlib.contextmanager
def started(what: str, work: Callable[[], Result]) -> Iterator[Pending[Result]]:
    """Start `work` in a child in namespaces of its own; end the child when the block is left, however that is."""
    read, write = os.pipe()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # Python loses an interrupt that comes while it forks
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(parent, write, what, work)
    try:
        os.close(write)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield Pending(pid, read, what)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _child(parent: int, pipe: int, what: str, work: Callable[[], object]) -> None:
    """Never returns: what runs behind the fork in the parent must not run twice."""
    status = 1
    try:
        for number in _HELD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
        value: object
        try:
            _leave()
            value = work()
        except QosctlError as error:
            value = ThrowawayError(f"{what}: {error.message}", error.hint)
        except OSError as error:
            hint = "sudo qosctl doctor" if isinstance(error, PermissionError) else ""
            value = ThrowawayError(f"{what}: {error.strerror or error}", hint)
        with os.fdopen(pipe, "wb") as out:
            out.write(pickle.dumps(value))
        status = 0
    finally:
        os._exit(status)


def _leave() -> None:
    """Leave the machine's namespaces."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_MOUNTS | _NEW_NET | (_NEW_USER if user else 0)), "no network namespace of our own")
    if user:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "no mounts of our own")


def mount(kind: str, target: str) -> None:
    """Mount a file system over `target`, for this child alone; only its user may enter it."""
    result = _libc.mount(kind.encode(), target.encode(), kind.encode(), 0, b"mode=0700")
    _check(result, f"cannot mount {kind} on {target}")


class Net:
    """One more network namespace of the child; without a name, held by this object alone."""

    def __init__(self) -> None:
        with Net.here() as back:
            _check(_libc.unshare(_NEW_NET), "no network namespace of our own")
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _check(_libc.setns(back, _NEW_NET), "cannot go back")

    @staticmethod
    @contextlib.contextmanager
    def here() -> Iterator[int]:
        """Yield a descriptor of the namespace that we are in."""
        with opened(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as fd:
            yield fd

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for the block; sockets opened there stay there."""
        with Net.here() as back:
            _check(_libc.setns(self.fd, _NEW_NET), "cannot enter a namespace of our own")
            try:
                yield
            finally:
                _check(_libc.setns(back, _NEW_NET), "cannot go back")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _read_all(pipe: int, what: str) -> bytes:
    deadline = time.monotonic() + _PATIENCE
    raw = b""
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(pipe, _CHUNK)
        if not chunk:
            return raw
        raw += chunk
    raise ThrowawayError(f"{what}: no answer within {_PATIENCE:.0f} s")
