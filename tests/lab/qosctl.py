"""The installed `qosctl` command, run in a namespace as a person would run it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

from qosctl.bpf.errors import NotAttachedError

from tests.lab.namespace import LabError, Namespace, end
from tests.lab.ocserv import Ocserv

_LOOKS_ONLY = {"flows", "passtos", "policy", "status"}
COMMAND = Path(sys.executable).with_name("qosctl")  # the console script beside this interpreter


class Qosctl:
    """`qosctl` inside `namespace`: call it with the words of the command line."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def __call__(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end; LabError with what it said if it fails and `check` is set."""
        return self.namespace.run([str(COMMAND), *words], check=check, stdin=stdin)

    def attach(self, device: str, hook: str = "auto") -> None:
        """Do in this process what the command does, for tests of something else: here the compiler has run already."""
        from qosctl.supervisor.devices.attach import attach  # noqa: PLC0415 - the lab's own programs shall begin without pyroute2
        from qosctl.supervisor.devices.hooks import HookKind  # noqa: PLC0415 - the same

        with self.namespace.entered():
            attach([device], HookKind(hook))

    def detach_all(self) -> None:
        """Do the same for `detach --all`; nothing there is fine."""
        from qosctl.supervisor.devices.attach import detach_all  # noqa: PLC0415 - the same

        with self.namespace.entered(), contextlib.suppress(NotAttachedError):
            detach_all()

    def read(self, *words: str) -> dict[str, Any]:
        """Return what a command says with --json. LabError with what it said if it fails."""
        look = self._look if words[0] in _LOOKS_ONLY else self
        done = look(*words, "--json")
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def statistics(self, timeout: float = 5) -> dict[str, int]:
        """Return the statistics of the only flow. Its entry moves with the channel, and for a moment there is none."""
        deadline = time.monotonic() + timeout
        while not (flows := json.loads(self._look("flows", "--json", check=False).stdout)["flows"]):
            if time.monotonic() > deadline:
                raise LabError("no flow")
            time.sleep(0.02)
        statistics: dict[str, int] = flows[0]["statistics"]
        return statistics

    def _look(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Let the command's own code answer in this process: Python need not start for it, which takes longest."""
        from qosctl.supervisor.cli.main import main  # noqa: PLC0415 - as in `attach`

        out, err = io.StringIO(), io.StringIO()
        with self.namespace.entered():
            status = main(words, out, err)
        if check and status != 0:
            raise LabError(f"{' '.join(words)}: exit {status}: {err.getvalue().strip()}")
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def connect(self, server: Ocserv, address: str, *more: str, user: str = "alice") -> Connection:
        """Connect to `server` at `address` with its pin and the user's password; `more` are further words.

        Without others it sets addresses, and neither routes nor names.
        """
        host = f"[{address}]" if ":" in address else address
        url = f"https://{host}:{server.port}"
        login = ["-u", user, "--password-file", str(server.password_file(user)), "--servercert", server.pin]
        return Connection(self.namespace, ["connect", url, "--script", "none", *login, *more])


class Connection:
    """A running `qosctl connect`. Inside the block the tunnel is up; leaving it says goodbye as Ctrl-C does."""

    def __init__(
        self, namespace: Namespace, words: list[str], timeout: float = 20, *, command: Sequence[str] = (str(COMMAND),)
    ) -> None:
        """`command` runs in place of `qosctl`."""
        self._namespace = namespace
        self._command = command
        self._words = words
        self._timeout = timeout

    def __enter__(self) -> Self:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # a pipe could fill and block
        self._err: IO[bytes] = tempfile.TemporaryFile()
        self.process = self._namespace.popen([*self._command, *self._words], stdout=self._out, stderr=self._err)
        try:
            self._wait_until_connected()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def device(self) -> str:
        """The tunnel device, as the first line says: `connected tun0: ...`."""
        return self.output.split()[1].rstrip(":")

    @property
    def output(self) -> str:
        """What it has printed on stdout."""
        return _text(self._out)

    @property
    def errors(self) -> str:
        """What it has printed on stderr."""
        return _text(self._err)

    @property
    def helper(self) -> int:
        """The process that keeps what this one has done to the machine: its only child."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def kill_both(self) -> None:
        """Kill it with its helper: nobody is left to undo anything."""
        helper = os.pidfd_open(self.helper)
        try:
            signal.pidfd_send_signal(helper, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            select.select([helper], [], [])  # the device goes with the last descriptor of the two
        finally:
            os.close(helper)

    def wait_for(self, words: str, timeout: float = 20) -> None:
        """Wait until it has said that on stderr. AssertionError with what it said instead."""
        deadline = time.monotonic() + timeout
        while words not in self.errors:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """End it and return its exit status."""
        status = end(self.process, sign)
        self._out.close()
        self._err.close()
        return status

    def _wait_until_connected(self) -> None:
        deadline = time.monotonic() + self._timeout
        while not any(line.startswith("connected") for line in self.output.splitlines()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"qosctl connect: no tunnel, status {self.process.poll()}: {self.errors.strip()}")
            time.sleep(0.02)


def _text(file: IO[bytes]) -> str:
    # The child shares our file offset: pread() leaves it alone.
    return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")
