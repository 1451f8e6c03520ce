"""The round trips of a class. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.dscp import Dscp

ROUNDS = 12
"""Requests of each class."""


@dataclass(frozen=True)
class DscpTimes:
    """The round trips of one class, in milliseconds, and how many requests had none in time."""

    dscp: Dscp
    round_trips_ms: Sequence[float]
    lost: int

    @property
    def median_ms(self) -> float | None:
        """The median, or None where nothing came back."""
        return statistics.median(self.round_trips_ms) if self.round_trips_ms else None
