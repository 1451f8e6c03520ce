"""Network namespaces with names, processes and sockets inside, and the wires between them."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_CLONE_NEWNET = 0x4000_0000
PATIENCE_S = 120
"""For a command that should end by itself: only one that hangs takes so long, however busy the machine."""
_MOMENTARY = frozenset({"ip", "tc", "nft", "bpftool"})
"""What these do takes a moment, so nobody has to end them, and no wrapper begins before them: they run by the thousand."""
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()


class LabError(Exception):
    """The laboratory itself failed: a command went wrong, a server did not come up."""


class Namespace:
    """A network namespace with a unique name `q<pid>-<n>-<label>`; it ends what was started in it.

    `nsenter --net=` and setns(2) enter it, never `ip netns exec`: that one replaces /sys, and with it the BPF pins.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.name = f"q{os.getpid()}-{next(_serial)}-{label}"
        self.path = Path("/run/netns") / self.name
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        _command(["ip", "netns", "add", self.name])
        try:
            self.ip("link set lo up")
            # Addresses must work at once: there is nobody else here to find duplicates with.
            self.sysctl("net.ipv6.conf.all.accept_dad", "0")
            self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes started here, newest first, then give the name back."""
        for process in reversed(self._processes):
            end(process)
        self._processes.clear()
        if self.path.exists():
            _command(["ip", "netns", "del", self.name])

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` inside. Every wrapper execs: the process id is the command's.

        The kernel ends it when its parent dies; the shell looks whether that happened before the kernel was asked.
        """
        enter = ["nsenter", f"--net={self.path}", "--", "setpriv", "--pdeathsig", "TERM", "--"]
        return [*enter, "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()), *argv]

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait. LabError with what it said when it fails and `check` is set."""
        if argv[0] not in _MOMENTARY:
            return _command(self.argv(argv), check=check, stdin=stdin, timeout=timeout, shown=argv)
        with self.entered():
            return _command(argv, check=check, stdin=stdin, timeout=timeout, shown=argv)

    def ip(self, *lines: str, check: bool = True) -> str:
        """Have one `ip` do all lines inside, as it takes them in a batch; return the JSON that it prints.

        LabError when one fails and `check` is set: those behind it are not tried.
        """
        with self.entered():
            feed = "".join(f"{line}\n" for line in lines)
            return _command(["ip", "-json", "-batch", "-"], check=check, stdin=feed, shown=["ip", "; ".join(lines)]).stdout

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command inside. It ends with this namespace, or when the thread that started it does.

        It gets a process group of its own, so that a terminal's Ctrl-C reaches us alone and we end things in order.
        """
        process = subprocess.Popen(
            self.argv(argv), stdin=stdin, stdout=stdout, stderr=stderr, env=env, text=True, process_group=0
        )
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread inside for the block. Sockets opened there stay there."""
        with Path("/proc/thread-self/ns/net").open("rb") as back, self.path.open("rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(back.fileno())

    def sysctl(self, name: str, value: str) -> None:
        """Set a net.* variable of this namespace."""
        with self.entered():
            (Path("/proc/sys") / name.replace(".", "/")).write_text(value)

    def wait_for_listener(self, port: int, process: subprocess.Popen[str], timeout: float = 10) -> bool:
        """Wait until something listens on TCP `port`; False when `process` ends before, or time is up."""
        local, listening = f":{port:04X}", "0A"
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and process.poll() is None:
            rows = (self.read("/proc/net/tcp") + self.read("/proc/net/tcp6")).splitlines()
            if any(row.split()[1].endswith(local) and row.split()[3] == listening for row in rows):
                return True
            time.sleep(0.02)
        return False

    def read(self, path: str) -> str:
        """Return a file of /proc/net as seen from inside."""
        with self.entered():
            return Path(path.replace("/proc/net", "/proc/thread-self/net")).read_text()


class veth:  # noqa: N801 - a verb: lay a wire
    """A wire between two namespaces: `with veth(a, "eth0", b, "eth0"):`. Both ends are up inside the block.

    Batches (GSO) are cut before they enter the wire unless `batches` is set: captures and queues then see the
    packets a network card would send.
    """

    def __init__(self, a: Namespace, a_name: str, b: Namespace, b_name: str, *, batches: bool = False) -> None:
        self._ends = ((a, a_name), (b, b_name))
        self._batches = batches

    def __enter__(self) -> Self:
        (a, a_name), (b, b_name) = self._ends
        _command(
            ["ip", "link", "add", "name", a_name, "netns", a.name, "type", "veth", "peer", "name", b_name, "netns", b.name]
        )
        for namespace, name in self._ends:
            namespace.ip(f"link set dev {name} up{'' if self._batches else ' gso_max_segs 1'}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        namespace, name = self._ends[0]
        if namespace.path.exists():
            namespace.ip(f"link del dev {name}", check=False)  # a test may have deleted it


def end(process: subprocess.Popen[str], sign: signal.Signals = signal.SIGTERM, patience: float = 5) -> int:
    """Ask a process to stop, insist after `patience` seconds, and return its exit status."""
    if process.poll() is None:
        process.send_signal(sign)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    status = process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return status


def _command(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = PATIENCE_S,
    shown: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, **feed)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(shown or argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
