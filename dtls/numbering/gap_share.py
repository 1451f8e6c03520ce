"""How many numbers are left free: as many as records that overtake will ask for, and none where that is of no use."""

from __future__ import annotations

LEARNING_SHARE = 1 / 12
"""Free numbers for each new one before anything is proved: enough for probes, and for a call's first packets."""
LEAST_SHARE, MOST_SHARE, SURPLUS, BURST_SPAN = 1 / 4, 1 / 2, 2.0, 20
"""The same later: enough for twice the records that overtook, and for a frame of video within so many records: what lies
between the places of probes and `highest` (replay_safe.py) has about 30 of them. Not more than 1/2: the more numbers 64
records span, the fewer are right for what overtakes them in doubt."""
SPAN, CROWDED_SPAN = 64, 512
"""Overtaken records over which the overtaking ones are counted: for the share, and for whether they are too many."""
CROWDED = 0.5
"""Records that overtake for each of the others, from which on there are not enough places for them."""
DECISIONS, USELESS = 128, 96
"""Of so many times that numbers were chosen, those that spared bulk next to nothing, from which on it is not worth it."""


class GapShare:
    """Counts records of both kinds."""

    def __init__(self) -> None:
        self._ratio = 0.0
        self._overtaken = self._overtaking = 0
        self._overtaken_long = self._overtaking_long = 0
        self._decisions = self._useless = 0

    def chosen(self, *, useless: bool) -> None:
        """Note that numbers were chosen, and whether so high that they spare next to nothing of what is overtaken."""
        self._decisions += 1
        self._useless += useless

    def start_over(self) -> None:
        """Forget the decisions: other classes made them."""
        self._decisions = self._useless = 0

    def overtaken(self, count: int) -> None:
        """Count records that took new numbers."""
        self._overtaken += count
        self._overtaken_long += count

    def overtaking(self, count: int) -> None:
        """Count records that took, or looked for, numbers behind the newest."""
        self._overtaking += count
        self._overtaking_long += count

    def useless(self) -> bool:
        """Tell, after a while each time, whether gaps have been of no use."""
        useless = False
        if self._overtaken_long + self._overtaking_long >= CROWDED_SPAN:
            useless = self._overtaking_long > CROWDED * self._overtaken_long
            self._overtaken_long = self._overtaking_long = 0
        if self._decisions >= DECISIONS:
            useless |= self._useless >= USELESS
            self._decisions = self._useless = 0
        return useless

    def share(self, burst: int) -> float:
        """Return the free numbers to leave for each new one; `burst` is the most that was asked for at once."""
        if self._overtaken >= SPAN:
            ratio = self._overtaking / self._overtaken
            self._ratio += (ratio - self._ratio) * (0.5 if ratio > self._ratio else 0.1)
            self._overtaken = self._overtaking = 0
        return min(MOST_SHARE, max(LEAST_SHARE, SURPLUS * self._ratio, burst / BURST_SPAN))
