"""A laboratory for one fault: everything is built for it, and nothing of it is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab import Ocserv
from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.leaks.clients import Client
from tests.system.leaks import OUTSIDE, Leaks

ROUTER = {4: "10.91.1.1", 6: "fd91:1::1"}
DPD_S = 2
PATIENCE_S = 15.0
"""How long a fault may take to show, and a tunnel to come back."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: packets that left outside of the tunnel, by IP version, and whether it carries again."""

    outside: dict[int, int]
    again: bool


class Stage:
    """Client, router and server, with traffic of both IP versions that belongs inside."""

    def __init__(self, kind: type[Client], folder: Path, more: str = "") -> None:
        """`more` is configuration of the server's."""
        self._stack = contextlib.ExitStack()
        self._folder = folder
        self.line = Line(f"dpd = {DPD_S}\n{more}")
        self.client = kind(self.line)
        self.outcome = Outcome({}, again=False)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.line)
            self.leaks = stack.enter_context(Leaks(self.line))
            stack.callback(self.client.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def inside(
        self, outer: int = 4, *, host: str = "", cookie: str = "", slept: Path | None = None, patience: float = PATIENCE_S
    ) -> Iterator[None]:
        """Be connected; what leaves outside from then on, until it carries again or has ended, is the outcome."""
        host = host or self.line.topology.server_address(outer)
        self.client.start(self.line.server, host, cookie=cookie, slept=slept)
        self.until(lambda: self._leads_inside() and self.leaks.flows(0.5))
        self.leaks.forget()
        yield
        again = self.client.alive and self.settle(patience)
        self.leaks.tried(40)
        frames = self.leaks.seen()
        self.outcome = Outcome({version: sum(f.family == version for f in frames) for version in OUTSIDE}, again)
        self.client.stop()

    def settle(self, patience: float = PATIENCE_S) -> bool:
        """Wait until both IP versions are answered through the tunnel; False when that does not come, or not any more."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.client.alive:
            if self._leads_inside() and self.leaks.flows(0.5):
                return True
            time.sleep(0.05)
        return False

    def ends(self, patience: float = PATIENCE_S) -> None:
        """Wait until the client has ended, or not."""
        deadline = time.monotonic() + patience
        while self.client.alive and time.monotonic() < deadline:
            time.sleep(0.05)

    def until(self, true: Callable[[], bool], patience: float = 30.0) -> None:
        """Wait for it."""
        deadline = time.monotonic() + patience
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not come: {self.client.said}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def relay(self) -> Iterator[Relay]:
        """Have a relay on the router, which speaks to the server."""
        line = self.line
        with Relay(line.router, ROUTER[4], line.server.port, line.topology.server4, seed=1) as made:
            yield made

    def configure(self, server: Ocserv, change: Callable[[str], str]) -> None:
        """Change the server's configuration and start it anew."""
        path = server.folder / "ocserv.conf"
        path.write_text(change(path.read_text()))
        self.line.restart_server()

    @property
    def slept(self) -> Path:
        """The file that says how long the machine has slept."""
        return self._folder / "slept"

    def _leads_inside(self) -> bool:
        """Whether the way of both IP versions is the tunnel: an answer alone could have come by another one."""
        for version, address in OUTSIDE.items():
            said = self.line.client.run(["ip", f"-{version}", "route", "get", address], check=False).stdout
            if f"dev {TUNNEL} " not in said:
                return False
        return True
