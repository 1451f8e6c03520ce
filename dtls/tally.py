"""What the client counted. Counts only grow, and belong to one connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """Inner packets and their bytes in one direction, over DTLS or TLS."""

    packets: int
    bytes: int


@dataclass(frozen=True)
class Statistics:
    """A snapshot. `dropped` has a count for each reason that occurred; `dpd_round_trip_s` is the newest, or None."""

    sent: Traffic
    received: Traffic
    dropped: Mapping[str, int]
    dpd_round_trip_s: float | None


class Tally:
    """The counts while they grow; plain attributes, because every packet passes here."""

    __slots__ = ("bytes_in", "bytes_out", "dpd_round_trip_s", "dropped", "packets_in", "packets_out")

    def __init__(self) -> None:
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0
        self.dropped: dict[str, int] = {}
        self.dpd_round_trip_s: float | None = None

    def drop(self, reason: str, count: int = 1) -> None:
        """Count packets or records that went nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def snapshot(self, more_dropped: Mapping[str, int]) -> Statistics:
        """Freeze the counts, with those of `more_dropped` that are not 0."""
        dropped = self.dropped | {reason: count for reason, count in more_dropped.items() if count}
        return Statistics(
            Traffic(self.packets_out, self.bytes_out),
            Traffic(self.packets_in, self.bytes_in),
            dropped,
            self.dpd_round_trip_s,
        )
