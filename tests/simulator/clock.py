"""Virtual time: events in the order of their time, and a record on its way."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qosctl.bpf.dscp import Dscp

if TYPE_CHECKING:
    from tests.simulator.flow import TcpFlow

NEVER = float("inf")


class Clock:
    """A heap of events; ties are run in the order they were planned. Times are seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = itertools.count()

    def at(self, when: float, action: Callable[[Any], None], argument: object = None) -> None:
        """Plan `action(argument)` for `when`."""
        heapq.heappush(self.events, (when, next(self._serial), action, argument))

    def run(self, until: float, advance: Callable[[float], None]) -> None:
        """Run all events up to `until`. `advance(t)` moves the path on to t, and may plan events before t."""
        events, pop = self.events, heapq.heappop
        while True:
            when = min(events[0][0], until) if events else until
            advance(when)
            if not events or events[0][0] > until:
                break
            if events[0][0] < when:  # the path has planned it
                continue
            self.now, _, action, argument = pop(events)
            action(argument)
        self.now = until


@dataclass(slots=True)
class Record:
    """One sealed record.

    `plain` is the number that plain numbering would have given the same records, `bare` the one that it would have given
    without probes among them; of no meaning for a probe.
    """

    number: int
    plain: int
    bare: int
    dscp: Dscp
    size: int
    sent: float
    flow: TcpFlow | None = None
    serial: int = 0
    probe: int = 0
