"""Cases of steady load: bulk that fills a queue, and what overtakes it. What numbering was first made for."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tests.simulator.case import BULK_SIZE, CALL_SIZE, Case, Flow, Path, Source, Steady

FLOWS = 16
LEAST_RECORDS = 8_000

Bulk = Literal["udp", "tcp"]


def offered(bulk: Bulk, mbit: float, overload: float = 2.0) -> tuple[Source, ...]:
    """Bulk that is more than the path carries."""
    if bulk == "tcp":
        return tuple(Flow(start_s=index / 80) for index in range(FLOWS))
    return (Steady(mbit=mbit * overload),)


def share(mbit: float, percent: float) -> Steady:
    """EF that takes so much of the path: a call's packets up to 2 %, full-size ones above."""
    return Steady(mbit=mbit * percent / 100, size=CALL_SIZE if percent <= 2 else BULK_SIZE, batch=1, dscp="EF")


def frames(mbit: float, start_s: float = 0.0) -> Steady:
    """A video whose frames are all alike."""
    return Steady(mbit=mbit, batch=10, dscp="AF41", start_s=start_s)


def path(mbit: float = 20.0, packets: int = 200, round_trip_ms: float = 5.0) -> Path:
    """A path whose queues hold so many packets."""
    return Path(mbit=mbit, queue_kb=packets * BULK_SIZE / 1000, in_packets=True, round_trip_ms=round_trip_ms)


def timed(case: Case) -> Case:
    """Count after four full queues and six round trips, for ten turns of the control loop and 8,000 records."""
    queue, trip = case.path.queue_kb * 8e-3 / case.path.mbit, case.path.round_trip_ms / 1000
    warm = 0.5 + 4 * queue + 6 * trip
    body = max(10 * (queue + trip), LEAST_RECORDS * BULK_SIZE * 8 / (case.path.mbit * 1e6))
    return replace(case, count_from_s=warm, seconds=warm + body)
