"""The clients that are compared, with vpnc-script and everything inside the tunnel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar

from tests.lab import Ocserv
from tests.lab.namespace import end
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import TUNNEL, Line

VPNC_SCRIPT = "/usr/share/vpnc-scripts/vpnc-script"
_SUSPENDED = Path(__file__).parent.parent / "system" / "suspended_program.py"


class Client(ABC):
    """One process at a time in the client's namespace."""

    name: ClassVar[str]
    can_be_suspended: ClassVar[bool] = False

    def __init__(self, line: Line) -> None:
        self._line = line
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the client; a pipe could fill and block
        self._process: subprocess.Popen[str] | None = None

    def start(self, server: Ocserv, host: str, *, cookie: str = "", slept: Path | None = None) -> None:
        """Begin to connect to `server` at `host`, with a password unless there is a `cookie`."""
        url = f"https://{f'[{host}]' if ':' in host else host}:{server.port}"
        with tempfile.TemporaryFile("w+") as stdin:
            stdin.write(cookie or server.users["alice"] + "\n")
            stdin.seek(0)
            words = self.words(server, url, cookie=bool(cookie), slept=slept)
            self._process = self._line.client.popen(words, stdin=stdin, stdout=self._out, stderr=self._out)

    @abstractmethod
    def words(self, server: Ocserv, url: str, *, cookie: bool, slept: Path | None) -> Sequence[str]:
        """Return its command line."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def said(self) -> str:
        """What it has printed."""
        return os.pread(self._out.fileno(), 1 << 20, 0).decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As the OOM killer does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            end(self._process, signal.SIGINT, 10)


class QosctlClient(Client):
    """The command under test."""

    name = "qosctl"
    can_be_suspended = True
    kill_switch: ClassVar[str] = "on"

    def words(self, server: Ocserv, url: str, *, cookie: bool, slept: Path | None) -> Sequence[str]:
        """Return its command line."""
        command = [str(COMMAND)] if slept is None else [sys.executable, str(_SUSPENDED), str(slept)]
        login = ["--cookie-on-stdin"] if cookie else ["-u", "alice", "--passwd-on-stdin"]
        trust = ["--servercert", server.pin]
        return [
            *command,
            "connect",
            url,
            *login,
            *trust,
            "-i",
            TUNNEL,
            "--script",
            VPNC_SCRIPT,
            "--kill-switch",
            self.kill_switch,
        ]


class UnheldClient(QosctlClient):
    """The same with nothing held: shows that the tap sees what leaves."""

    name = "qosctl --kill-switch off"
    kill_switch = "off"


class OpenconnectClient(Client):
    """The one that everybody has."""

    name = "openconnect"

    def words(self, server: Ocserv, url: str, *, cookie: bool, slept: Path | None) -> Sequence[str]:
        """Return its command line."""
        assert slept is None
        login = ["--cookie-on-stdin"] if cookie else ["--user", "alice", "--passwd-on-stdin", "--non-inter"]
        return ["openconnect", *login, "--servercert", server.pin, "-i", TUNNEL, "--script", VPNC_SCRIPT, url]
