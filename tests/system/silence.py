"""Servers that say nothing. Finding that out takes the command half a minute, so it begins before all tests."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from dataclasses import dataclass
from typing import Self

from tests.lab import Ocserv, Qosctl, Topology
from tests.lab.qosctl import COMMAND

SILENT_PORT = 4450
_LONG_ENOUGH = 60


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    stdout: str
    stderr: str
    code: int


class Silences:
    """Two attempts to connect, under way: nothing comes back over TCP, and over UDP alone."""

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
            self._no_tcp = self._attempt(SILENT_PORT)
            self._no_udp = self._attempt(self.port)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def over_tcp(self) -> Said:
        """Wait for the attempt whose connection request nobody answers."""
        return _result(self._no_tcp)

    @functools.cached_property
    def over_udp(self) -> Said:
        """Wait for the attempt that logs in, and gets no answer over UDP."""
        return _result(self._no_udp)

    @property
    def qosctl(self) -> Qosctl:
        """The command beside the two attempts."""
        return Qosctl(self.client)

    def _attempt(self, port: int) -> subprocess.Popen[str]:
        password = str(self._server.password_file("alice"))
        login = ["-u", "alice", "--password-file", password, "--servercert", self._server.pin]
        words = [str(COMMAND), "connect", f"https://{self.address}:{port}", *login]
        return self.client.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _result(process: subprocess.Popen[str]) -> Said:
    stdout, stderr = process.communicate(timeout=_LONG_ENOUGH)
    return Said(stdout, stderr, process.returncode)
