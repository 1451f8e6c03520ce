"""Hands out every number of an epoch at most once: new ones in ascending order, those of gaps on demand.

    new numbers     1 2 3 4 .. 16 [17 18 19 20] 21 22 .. 36 [37 38 39 40] 41 ..
    gaps                          \\___________/            \\___________/      for what will overtake the ones around them

Numbers are as dense as plain ones as long as nobody asks for gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

from qosctl.dtls.numbering.gaps import GapReserve
from qosctl.dtls.numbering.plain import end_of_epoch, exhausted

BLOCKS = ((0.3, 8), (0.2, 4), (0.0, 2))
"""Numbers in one gap, by the least share left free: few, so that there is one near every place."""


class Allocator:
    """Owns the numbers of one epoch. Unique by construction: a number is new once, and leaves the reserve once."""

    def __init__(self, first: int) -> None:
        self.newest = first - 1
        """The highest number used or left free."""
        self.gaps = GapReserve()
        self._limit = end_of_epoch(first)
        self._share = 0.0
        self._run = self._block = self._left = 0

    def leave(self, share: float) -> None:
        """Leave `share` free numbers for each new one from now on; 0.0 leaves none."""
        if share:
            self._block = next(block for least, block in BLOCKS if share > least)
            self._run = max(1, int(self._block / share))
            self._left = min(self._left, self._run) if self._share else self._run  # a gap that is due stays due
        self._share = share

    def fresh(self, count: int, *, gaps: bool = True) -> Sequence[int]:
        """Return `count` new numbers, with gaps among them if they are wanted at all; NumbersExhaustedError at the end."""
        if gaps and self._share:
            return self._with_gaps(count)
        start = self.newest + 1
        end = start + count
        if end > self._limit:
            raise exhausted(self._limit)
        self.newest = end - 1
        return range(start, end)

    def _with_gaps(self, count: int) -> list[int]:
        if self.newest + 1 + count > self._limit:
            raise exhausted(self._limit)
        numbers: list[int] = []
        while count:
            if self._left <= 0:
                self._leave_gap(count)
            start = self.newest + 1
            part = min(count, self._left)
            numbers.extend(range(start, start + part))
            self.newest += part
            self._left -= part
            count -= part
        return numbers

    def _leave_gap(self, count: int) -> None:
        start = self.newest + 1
        end = min(start + self._block, self._limit - count)
        if end > start:
            self.gaps.add(start, end)
            self.newest = end - 1
        self._left = self._run
