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
    """A snapshot.

    `control` counts frames that are no packets, as in "dtls dpd_out received"; `dropped` has a count for each reason
    that occurred; `socket_full` is how often packets had to wait for room in the UDP socket. `dpd_round_trip_s` is the
    newest of the DTLS channel, or None before the first.
    """

    sent: Traffic
    received: Traffic
    control: Mapping[str, int]
    dropped: Mapping[str, int]
    socket_full: int
    dpd_round_trip_s: float | None


class Tally:
    """The counts while they grow; plain attributes, because every packet passes here."""

    __slots__ = ("bytes_in", "bytes_out", "control", "dpd_round_trip_s", "dropped", "packets_in", "packets_out")

    def __init__(self) -> None:
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0
        self.control: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.dpd_round_trip_s: float | None = None

    def drop(self, reason: str, count: int = 1) -> None:
        """Count packets, frames or records that went nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def count_control(self, what: str) -> None:
        """Count one frame that is no packet."""
        self.control[what] = self.control.get(what, 0) + 1

    def snapshot(self, more_dropped: Mapping[str, int], socket_full: int) -> Statistics:
        """Freeze the counts, with what others counted: those of `more_dropped` that are not 0, and `socket_full`."""
        dropped = self.dropped | {reason: count for reason, count in more_dropped.items() if count}
        return Statistics(
            Traffic(self.packets_out, self.bytes_out),
            Traffic(self.packets_in, self.bytes_in),
            dict(self.control),
            dropped,
            socket_full,
            self.dpd_round_trip_s,
        )
