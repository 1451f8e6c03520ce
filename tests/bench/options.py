"""What of the bench to run."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.sides import SIDES, Side


@dataclass(frozen=True)
class Options:
    """`short` is for daily use. The rest chooses rows of the bottleneck; empty is all."""

    short: bool = False
    rates: tuple[int, ...] = ()
    clients: tuple[str, ...] = ()
    bulks: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The chosen clients."""
        return tuple(side for side in SIDES if not self.clients or side.name in self.clients)
