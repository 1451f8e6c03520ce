"""Numbers left free on purpose, for records that will overtake the ones around them."""

from __future__ import annotations

from bisect import bisect_right

MAX_BLOCKS = 8192
"""Bound on memory. A full queue of 2,000 records of which half are dropped at its tail needs about 1,000."""


class GapReserve:
    """Blocks of unused numbers in ascending order. A number leaves once: taken, or forgotten for good.

    A record by itself must always find a number near the place where it belongs: many records at once leave the last number
    of each block to it.
    """

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

    def one(self, lowest: int, wished: int) -> int | None:
        """Return the free number nearest below `wished`, but no lower than `lowest`; else the next one above; else None."""
        at = bisect_right(self._starts, wished) - 1
        if at >= 0 and (number := min(self._ends[at] - 1, wished)) >= lowest:
            return self._cut(at, number, number + 1)
        if at + 1 < len(self._starts):
            number = self._starts[at + 1]
            return self._cut(at + 1, number, number + 1)
        return None

    def several(self, lowest: int, wished: int, count: int) -> list[int]:
        """Return up to `count` free numbers in ascending order: those that end at `wished`, as far as they go down to
        `lowest`, and what is missing from above.
        """
        at = bisect_right(self._starts, wished) - 1
        cuts: list[tuple[int, int, int]] = []
        block = at
        while count and block >= 0 and min(self._ends[block], wished + 1) > lowest:
            start, end = max(self._starts[block] + 1, lowest), min(self._ends[block], wished + 1)
            if end > start:
                start = max(start, end - count)
                cuts.append((block, start, end))
                count -= end - start
            block -= 1
        cuts.reverse()
        for block in range(max(at, 0), len(self._starts)):
            if not count:
                break
            start = max(self._starts[block] + 1, wished + 1)
            end = min(self._ends[block], start + count)
            if end > start:
                cuts.append((block, start, end))
                count -= end - start
        for block, start, end in reversed(cuts):
            self._cut(block, start, end)
        return [number for _, start, end in cuts for number in range(start, end)]

    def lowest(self, least: int, most: int, *, leave: int = 0) -> int | None:
        """Return the lowest free number in least..most of a block that keeps `leave` others, or None."""
        found = self._find(least, most, leave)
        return None if found is None else self._cut(found[0], found[1], found[1] + 1)

    def has(self, least: int, most: int, *, leave: int = 0) -> bool:
        """Tell whether `lowest` would find one."""
        return self._find(least, most, leave) is not None

    def above(self, number: int) -> int:
        """Return how many numbers above this one are free."""
        first = bisect_right(self._ends, number + 1)
        return sum(self._ends[first:]) - sum(max(number + 1, start) for start in self._starts[first:])

    def forget_below(self, number: int) -> None:
        """Drop what lies below `number`: the receiver is past it for good."""
        self._drop(bisect_right(self._ends, number))

    def _find(self, least: int, most: int, leave: int) -> tuple[int, int] | None:
        for block in range(bisect_right(self._ends, least), len(self._starts)):
            number = max(self._starts[block], least)
            if number > most:
                break
            if self._ends[block] - self._starts[block] > leave:
                return block, number
        return None

    def _cut(self, block: int, start: int, end: int) -> int:
        """Take the numbers start..end-1 out of a block that holds them; returns the first."""
        first, last = self._starts[block], self._ends[block]
        rest = [(first, start), (end, last)]
        kept = [(low, high) for low, high in rest if high > low]
        self._starts[block : block + 1] = [low for low, _ in kept]
        self._ends[block : block + 1] = [high for _, high in kept]
        self.left -= end - start
        return start

    def _drop(self, blocks: int) -> None:
        if blocks:
            self.left -= sum(self._ends[:blocks]) - sum(self._starts[:blocks])
            del self._starts[:blocks], self._ends[:blocks]
