"""What the bottleneck is measured with: each row is a path, what it carries, and the machine it runs on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

RATES_MBIT = (5, 20, 80)
_VIDEO_LEAST_MBIT = 20  # at 5 Mbit/s it would be nearly all there is

Bulk = Literal["udp", "tcp16", "bursts"]
Classes = Literal["call", "call+video"]
Machine = Literal["own", "shared core", "nice 19", "busy core"]
"""own: the client and the server have the machine for themselves. shared core: client and a busy loop on one core.
nice 19: the same, and the client yields. busy core: a busy loop on one core, and the client wherever it likes."""


@dataclass(frozen=True)
class Row:
    """A row. Rates are Mbit/s of the path, times are seconds but where the name says otherwise."""

    name: str
    rate_mbit: int
    """Of the bottleneck; on two ways, of the payload that is offered."""
    bulk: Bulk = "udp"
    classes: Classes = "call"
    kilobytes: float = 0.0
    """Payload of each burst."""
    period_s: float = 0.0
    hold_ms: float = 0.0
    """0: the bottleneck. Otherwise two ways to the server, and what the second one holds."""
    machine: Machine = "own"

    @property
    def shown(self) -> str:
        """The row in a few words."""
        load = {"udp": "UDP", "tcp16": "16 TCP"}.get(self.bulk) or f"{self.kilobytes:.0f} kB each {self.period_s:g} s"
        path = f"two ways, {self.hold_ms:g} ms apart" if self.hold_ms else f"{self.rate_mbit} Mbit/s"
        more = [word for word, there in (("video", self.classes != "call"), (self.machine, self.machine != "own")) if there]
        return ", ".join([path, load, *more])


def _steady() -> tuple[Row, ...]:
    return tuple(
        Row(f"{rate}-{bulk}-{classes}", rate, bulk, classes)
        for rate in RATES_MBIT
        for bulk in ("udp", "tcp16")
        for classes in ("call", "call+video")
        if classes == "call" or rate >= _VIDEO_LEAST_MBIT
    )  # fmt: skip


STEADY = _steady()
BURSTS = (
    Row("burst-5", 5, "bursts", kilobytes=120, period_s=0.5),
    Row("burst-20", 20, "bursts", kilobytes=120, period_s=0.1),
    Row("burst-5-long", 5, "bursts", kilobytes=200, period_s=1.0),
    Row("burst-20-long", 20, "bursts", kilobytes=240, period_s=1.0),
)
WAYS = (Row("ways-10", 40, hold_ms=10.0), Row("ways-13", 40, hold_ms=13.0))
MACHINES = (
    Row("shared-20", 20, machine="shared core"),
    Row("nice-20", 20, machine="nice 19"),
    Row("shared-burst-5", 5, "bursts", kilobytes=120, period_s=0.5, machine="shared core"),
)
_BUSY = "+busy"


def beside_busy(row: Row) -> Row:
    """Return the row with a busy loop on one core; only for those that have the machine for themselves."""
    return replace(row, name=row.name + _BUSY, machine="busy core")


ROWS = (*STEADY, *BURSTS, *WAYS, *MACHINES)
BY_NAME = {row.name: row for row in ROWS}
_PLACES = {name: place for place, name in enumerate(BY_NAME)}


def named(name: str) -> Row | None:
    """Return the row of that name, the ones beside a busy loop included; None for one of an earlier bench."""
    row = BY_NAME.get(name.removesuffix(_BUSY))
    return row if row is None or row.name == name else beside_busy(row)


def place(row: Row) -> tuple[int, str]:
    """Return where a row stands in the table."""
    return _PLACES[row.name.removesuffix(_BUSY)], row.name
