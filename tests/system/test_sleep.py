"""A machine that is suspended and wakes up, as its client sees it.

Suspending the machine that the tests run on would take the server and the tests with it. So the client alone is stopped,
its clocks are shown to it as a suspended machine has them (see suspended_program), and nothing passes on the network
meanwhile: what the server says in its absence never reaches it, and no news of links or addresses wake it up.
"""

import contextlib
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import Connection
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.flowing import Flowing, Row, note

DPD_S = 2
OCSERV = f"dpd = {DPD_S}\n"
BOUND_S = 20.0
PROGRAM = Path(__file__).with_name("suspended_program.py")


class Machine:
    """A client whose machine can be put to sleep."""

    def __init__(self, line: Line, folder: Path) -> None:
        self._line = line
        self._slept = folder / "slept"
        self._slept.write_bytes(struct.pack("=d", 0.0))
        server = line.server
        words = ["connect", f"https://{line.topology.server4}:{server.port}", "--script", "none", "-i", TUNNEL]
        words += ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
        command = [sys.executable, str(PROGRAM), str(self._slept)]
        self.connection = Connection(line.client, words, command=command)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Be asleep in the block, and off the network; clocks are right when it wakes."""
        process = self.connection.process
        began = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        try:
            with self._line.topology.dropping():
                yield
        finally:
            with self._slept.open("r+b") as file:  # in place: it is mapped
                file.write(struct.pack("=d", time.monotonic() - began))
            process.send_signal(signal.SIGCONT)


def _sessions(line: Line) -> int:
    return sum(row.startswith("vpns") for row in line.server_namespace.run(["ip", "-br", "link"]).stdout.splitlines())


def test_a_sleep_that_the_server_did_not_outlast(line: Line, tmp_path: Path) -> None:
    """Its goodbye is lost with the network: the connection looks alive until it is asked."""
    machine = Machine(line, tmp_path)
    with machine.connection as connection, Flowing(line.client, line.server_namespace) as flow:
        with machine.asleep():
            until(lambda: _sessions(line) == 0, 40)
        woke = time.monotonic()
        seconds = flow.wait(woke)
        assert "connecting again" in connection.errors
        kept, lost = flow.tcp_works(), flow.lost()
    note(Row("suspended until the server gave up", "connecting again ... connected again", "awake", seconds, lost, kept))
    assert kept
    assert seconds < BOUND_S


def test_a_short_sleep(line: Line, tmp_path: Path) -> None:
    machine = Machine(line, tmp_path)
    with machine.connection as connection, Flowing(line.client, line.server_namespace) as flow:
        with machine.asleep():
            time.sleep(3)
        woke = time.monotonic()
        seconds = flow.wait(woke)
        kept, lost = flow.tcp_works(), flow.lost()
        assert connection.errors == ""
    note(Row("suspended for 3 s", "nothing", "awake", seconds, lost, kept))
    assert kept
