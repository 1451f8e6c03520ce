"""What of the bench to run."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.sides import SIDES, Side


@dataclass(frozen=True)
class Options:
    """`short` is for daily use. `rows` and `clients` are of the bottleneck; empty is all."""

    short: bool = False
    rows: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    seconds: float | None = None
    runs: int = 1
    """Times that each row is measured; the figures are medians."""

    busy: bool = False
    """Measure the rows that have the machine for themselves beside a busy loop on one core."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The chosen clients."""
        return tuple(side for side in SIDES if not self.clients or side.name in self.clients)
