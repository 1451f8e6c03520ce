"""How far the receiver may be when a record arrives that is sent now, and how far it surely is.

Both are numbers of the less urgent classes' records, which move the receiver's window while the record is on its way.

    surely reached                                                                  position bound
         |                                                                                |
    ---- e ======== where the receiver is, somewhere ======== u .......................... + ----- newest ---
         the last probe that came back                        the first that did not

THE POSITION BOUND, of one class that is overtaken, is what that class had been given by this time of the sender's past:

    max( u sent + max(GROWTH * shortest round trip, PACE * own round trip),
         min( e sent + PACE * (now - e heard + own round trip),
              x + window sent + PACE * (now - x sent) ) )

- In a queue the receiver lives through the sender's past, and no faster than the sender did: what it gets within a second
  was sent within a second, or longer ago. So it is where a queue fills, where it is full and drops, whatever the rate is
  and however many numbers are dropped in a row. Only a link that becomes faster gets on faster.
- First line: u had not arrived when its echo would have had to leave to be here now. From then until the record arrives
  a round trip passes, and the link may become GROWTH times as fast meanwhile. This holds unless u, or its echo, is lost.
- Second line: whatever became of u, the receiver was at e when that arrived, and has been going on since.
- Third line: a probe of an overtaking class came back, with a number that lies behind: x. So the receiver was less than a
  window above that number. This one tightens the second, and needs no probe of the other class at all.

So the bound fails only where two things go wrong within a round trip: a probe, or its echo, is lost, and the link becomes
more than PACE times as fast. It fails, too, for a rise of more than GROWTH times. Without a probe on its way there is
nothing to go by, and the bound is the newest number. A burst has been sent within a moment: beside it, too.

All times are the sender's, in seconds. No difference of one-way delays enters.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from qosctl.dtls.numbering.class_path import ClassPath

GROWTH = 10.0
"""By how many times itself a link may become faster within a round trip."""
PACE = 1.5
"""The same while a probe is lost."""


class ReceiverPosition:
    """Knows the classes; all answers are about records that overtake."""

    def __init__(self, paths: Collection[ClassPath], window: int) -> None:
        """`paths` may grow later; `window` is how many numbers the receiver is sure to remember."""
        self._paths = paths
        self._window = window

    def bound(self, own: ClassPath, now: float) -> int:
        """Return the highest number that the receiver may have when a record of a class arrives that leaves now."""
        others = (self._bound(other, own, now) for other in self._paths if other is not own)
        return max(own.highest, max(others, default=0))

    def reached(self, own: ClassPath, now: float) -> float | None:
        """Return a number below which nothing of the less urgent classes is on its way; None if nothing is at all.

        A number up to a window above it drops none of their records.
        """
        return min(
            (
                min(each.last.number, each.lowest(now)) if each.behind else each.last.number
                for each in self._paths
                if each.less_urgent_than(own) and each.last is not None and each.in_flight(now)
            ),
            default=None,
        )

    def highest_behind(self) -> int:
        """Return the highest number that a class was given which takes low ones: that has arrived, or soon will."""
        return max((each.highest for each in self._paths if each.behind), default=0)

    def _bound(self, other: ClassPath, own: ClassPath, now: float) -> int:
        if other.behind or own.less_urgent_than(other):
            return other.highest  # all of it may arrive first
        first = other.first_unanswered(self._highest_beside(other) - self._window)
        if other.last is None or first is None or own.rtt is None:
            return other.highest
        own_rtt = own.rtt_at_most(now, self.highest_behind() - self._window)
        faster_link = first.sent + max(GROWTH * own.min_rtt, PACE * own_rtt)
        lost_probe = other.last.sent + PACE * (now - other.heard_at + own_rtt)
        sent = max(faster_link, min(lost_probe, self._proven(other, own_rtt, now)))
        return max(first.number, other.history.highest_at(sent))

    def _proven(self, other: ClassPath, own_rtt: float, now: float) -> float:
        """Return when that was sent which the receiver is not past, because it accepted low numbers; inf without proof."""
        return min(
            (
                other.history.sent_beyond(each.last.number + self._window)
                + PACE * (now - each.last.sent + max(0.0, own_rtt - each.min_rtt))
                for each in self._paths
                if each is not other and each.last is not None
            ),
            default=inf,
        )

    def _highest_beside(self, path: ClassPath) -> int:
        """Return the highest number given to any other class."""
        return max((each.highest for each in self._paths if each is not path), default=0)
