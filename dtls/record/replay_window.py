"""Which record numbers have been seen: the receive window of RFC 6347 4.1.2.6, wider than its 64.

A record is checked with `accepts`, then authenticated, then made known with `mark`; a forged record never gets
as far as `mark`, so it cannot move the window. The window is an array with a place for each residue: within
`width` consecutive numbers each place belongs to exactly one, and a number that is in its place has been seen.
Nothing is shifted and nothing is cleared when the window moves.
"""

from __future__ import annotations

DEFAULT_WIDTH = 4096
"""Records of one priority class that may be overtaken by others before the late ones are dropped."""

_NEVER = -1


class ReplayWindow:
    """Remembers the newest `width` record numbers of one epoch; width is a power of two."""

    __slots__ = ("_mask", "_seen", "top")

    top: int
    """The highest number marked, -1 before the first."""

    def __init__(self, width: int = DEFAULT_WIDTH) -> None:
        if width < 1 or width & (width - 1):
            raise ValueError(f"a window of {width} is not a power of two")
        self._mask = width - 1
        self._seen = [_NEVER] * width
        self.top = _NEVER

    def accepts(self, number: int) -> bool:
        """Say whether `number` is new: not seen, and not so old that we would not know."""
        if number > self.top:
            return True
        mask = self._mask
        return number >= self.top - mask and self._seen[number & mask] != number

    def mark(self, number: int) -> None:
        """Make `number` known. Call it for authenticated records that `accepts` allowed, and no others."""
        self._seen[number & self._mask] = number
        if number > self.top:  # noqa: PLR1730  (max costs a call, and every record passes here)
            self.top = number
