"""Servers that say nothing. Finding that out takes the command half a minute, so it begins before all tests."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab import LabError, Ocserv, Qosctl, Topology
from tests.lab.qosctl import COMMAND

SILENT_PORT = 4450
_LONG_ENOUGH = 60
_SYN_SENT = "02"  # include/net/tcp_states.h


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    stdout: str
    stderr: str
    code: int


class Silences:
    """Attempts to connect where nothing comes back over TCP, which is under way, and over UDP alone."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            topology = stack.enter_context(Topology())
            self.client = topology.client
            self.address = topology.server4
            self._server = stack.enter_context(Ocserv(topology.server, [topology.server4]))
            for protocol, port in (("tcp", SILENT_PORT), ("udp", self._server.port)):
                rule = ["ipproto", protocol, "dport", str(port), "blackhole"]
                topology.router.run(["ip", "rule", "add", "priority", "1", *rule])
            self.port = self._server.port
            self._no_tcp = self.attempt(SILENT_PORT)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def over_tcp(self) -> Said:
        """Wait for the attempt whose connection request nobody answers."""
        return result(self._no_tcp)

    @functools.cached_property
    def over_udp(self) -> Said:
        """Wait until an attempt that gets no answer over UDP has a tunnel all the same, and end it."""
        attempt = self.attempt(self.port)  # only now: it makes a device and pins
        assert attempt.stdout is not None
        printed = attempt.stdout.readline() + attempt.stdout.readline()
        attempt.send_signal(signal.SIGINT)
        said = result(attempt)
        return Said(printed + said.stdout, said.stderr, said.code)

    @property
    def qosctl(self) -> Qosctl:
        """The command beside the attempts."""
        return Qosctl(self.client)

    def attempt(self, port: int) -> subprocess.Popen[str]:
        """Start to connect to `port`."""
        password = str(self._server.password_file("alice"))
        login = ["-u", "alice", "--password-file", password, "--servercert", self._server.pin]
        words = [str(COMMAND), "connect", f"https://{self.address}:{port}", *login]
        return self.client.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_until_waiting(self, attempt: subprocess.Popen[str]) -> None:
        """Return once the attempt has asked for its TCP connection, and waits."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            rows = [row.split() for row in self.client.read("/proc/net/tcp").splitlines()]
            if _sockets(attempt.pid) & {row[9] for row in rows if row[3] == _SYN_SENT}:
                return
            time.sleep(0.02)
        raise LabError("the attempt does not even begin")


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
    return found


def result(process: subprocess.Popen[str]) -> Said:
    """Wait for the end of an attempt."""
    stdout, stderr = process.communicate(timeout=_LONG_ENOUGH)
    return Said(stdout, stderr, process.returncode)
