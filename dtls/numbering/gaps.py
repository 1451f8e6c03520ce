"""Numbers left free on purpose, for records that will overtake the ones around them."""

from __future__ import annotations

from bisect import bisect_right

MAX_BLOCKS = 8192
"""Bound on memory. A full queue of 2,000 records of which half are dropped at its tail needs about 1,000."""


NEXT = 20
"""Numbers above the wanted one within which a gap is near enough."""


class GapReserve:
    """Blocks of unused numbers in ascending order. A number leaves once: taken, or forgotten for good."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.left = 0
        """Numbers in reserve."""

    def add(self, start: int, end: int) -> None:
        """Put the numbers start..end-1 in reserve; they lie above all that came before."""
        if len(self._ends) >= MAX_BLOCKS:
            self._drop(MAX_BLOCKS // 4)
        self._starts.append(start)
        self._ends.append(end)
        self.left += end - start

    def take(self, wanted: int, count: int, below: int = 0) -> list[int]:
        """Return up to `count` free numbers in ascending order, from the block at or next above `wanted`.

        The first may lie a few below `wanted` (the block that spans it is used whole), or up to `below` where there is
        nothing close above. Fewer than `count` come back when the reserve has no more of them above.
        """
        starts, ends = self._starts, self._ends
        at = bisect_right(ends, wanted)
        if below and (at == len(ends) or starts[at] > wanted + NEXT):
            while at and ends[at - 1] > wanted - below:
                at -= 1
        taken: list[int] = []
        while count and at < len(ends):
            start, end = starts[at], ends[at]
            stop = start + count
            if stop < end:
                starts[at] = stop
            else:
                stop = end
                del starts[at], ends[at]
            taken.extend(range(start, stop))
            count -= stop - start
        self.left -= len(taken)
        return taken

    def forget_below(self, number: int) -> None:
        """Drop what lies below `number`: the receiver is past it for good."""
        self._drop(bisect_right(self._ends, number))

    def _drop(self, blocks: int) -> None:
        if blocks:
            self.left -= sum(self._ends[:blocks]) - sum(self._starts[:blocks])
            del self._starts[:blocks], self._ends[:blocks]
