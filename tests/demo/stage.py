"""What the demo plays on: the drawing of tests.lab with a server on the right and qosctl on the left."""

from __future__ import annotations

import contextlib
import time
from typing import Self

from tests.demo import terminal
from tests.lab import Capture, Connection, Frame, Ocserv, Qosctl, Topology


class Stage:
    """Inside the block: ocserv runs, qosctl is attached and connected, the client's outer wire is captured."""

    def __init__(self) -> None:
        self.net = Topology()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.net)
            self.server = stack.enter_context(Ocserv(self.net.server, [self.net.server4, self.net.server6]))
            self.qosctl = Qosctl(self.net.client)
            started = time.monotonic()
            self.run("attach", self.net.client_if)
            self.attach_ms = round((time.monotonic() - started) * 1000, 1)
            self._tunnel = stack.enter_context(contextlib.ExitStack())
            self._connect()
            self.wire = stack.enter_context(Capture(self.net.client, self.net.client_if, self.is_tunnel))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_tunnel(self, frame: Frame) -> bool:
        """Whether the frame is a datagram of the tunnel on its way to the server."""
        return frame.destination_port == self.server.port and frame.destination == self.net.server4

    def run(self, *words: str, limit: int = 40) -> None:
        """Show and run a qosctl command, and show what it answers, at most `limit` lines of it."""
        terminal.command(" ".join(("qosctl", *words)))
        done = self.qosctl(*words)
        terminal.quote(done.stdout + done.stderr, limit)

    def reconnect(self, *more: str) -> None:
        """End the tunnel and open it again, with `more` words on the command line."""
        self._tunnel.close()
        self._connect(*more)

    def _connect(self, *more: str) -> None:
        login = f"--script none -u alice --password-file FILE --servercert {self.server.pin}"
        terminal.command(" ".join((f"qosctl connect https://{self.net.server4}:{self.server.port} {login}", *more)))
        self.connection: Connection = self._tunnel.enter_context(self.qosctl.connect(self.server, self.net.server4, *more))
        terminal.quote(self.connection.output)
        self._route()

    def _route(self) -> None:
        # The server gives a single IPv6 address, a /128; the way to its neighbours is for the user to choose.
        words = ["ip", "-6", "route", "add", self.server.network6, "dev", self.connection.device]
        terminal.command(" ".join(words))
        self.net.client.run(words)
