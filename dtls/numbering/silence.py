"""What the silence of probes says of a position: the receiver is not past the first probe that has not come back.

    in flight   [p1 .... p2 .... p3 .... p4 ....]    40 numbers apart, less than the window is wide
    receiver  ^ somewhere before p1, unless p1 is lost; else before p2

A probe that is late is a bound whatever the queue does: it holds through a pause of this program, through a burst, and
where the queue grows faster than echoes come. One that was lost is none. So how much is made of silence depends on how
much of it there is. A place that is a little too low costs nothing, one that is lower costs the priority class.

- As many are silent as may well be lost in a row, and one more: the receiver is not past the last of these, no doubt.
- On a path that echoes nearly all probes, fewer say something too: one lowers the place by up to YIELD, which does no harm
  if the probe was lost, two by up to YIELD_TO_TWO.
"""

from __future__ import annotations

from qosctl.dtls.numbering.lanes import Lane, Probe
from qosctl.dtls.numbering.sendlog import SendLog

YIELD, YIELD_TO_TWO = 40, 48
"""Numbers by which a place may be too low without any loss: the window, less what the estimate may be wrong besides."""

STALL = 0.004
"""Seconds by which an echo may be late because a program had to wait for its turn: no sign of a queue."""


def held(place: int, slow: Lane, own: float, log: SendLog, capacity: float | None) -> tuple[int, bool]:
    """Return `place`, lowered to what silence allows, and whether it lay beyond a probe that is surely late.

    `own` is the round trip of the overtaking class in seconds, `capacity` the link's records a second.
    """
    waiting = False
    if slow.calm:  # its probes follow each other closely: a stall of the server would pass for a queue
        own += STALL
    late = slow.late(slow.certain_doubt)
    if late is not None and (surely := _not_past(late, own, log, capacity)) < place:
        place, waiting = surely, True
    first = slow.late(0) if slow.calm else None
    if first is None:
        return place, waiting
    lowest, doubt = _not_past(first, own, log, capacity), slow.doubt
    if (silent := slow.late(doubt)) is not None:
        most = YIELD_TO_TWO
    elif (silent := slow.late(doubt - 1)) is not None:
        most = YIELD
    else:
        return place, waiting
    place = max(place - most, min(place, max(lowest, _not_past(silent, own, log, capacity) - YIELD)))
    return place, waiting


def _not_past(probe: Probe, own: float, log: SendLog, capacity: float | None) -> int:
    """Return the number that bulk is not past when something arrives that is sent now, if `probe` is not lost.

    Its echo would take time to come, and what is sent now takes time to go: meanwhile bulk moves on, by no more than was
    sent in such a time, nor than the link can carry.
    """
    by_time = log.newest_at(probe.sent + own)
    if capacity is None:
        return by_time
    return min(by_time, log.newest_when(log.slow_at(probe.sent) + capacity * own))
