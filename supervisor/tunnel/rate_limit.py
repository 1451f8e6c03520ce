"""How often something may be done: so many times at once, and so many a second in the long run. No clock."""

from __future__ import annotations


class RateLimit:
    """`burst` times at once, `per_s` times a second. Times are in seconds, on any clock that does not go back."""

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._counted = float("-inf")

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next time; 0 for not at all."""
        self._count(now)
        return max(0.0, (1 - self._left) / self._per_s)

    def take(self, now: float) -> None:
        """Note that it was done."""
        self._count(now)
        self._left -= 1

    def _count(self, now: float) -> None:
        if now > self._counted:
            self._left = min(self._burst, self._left + (now - self._counted) * self._per_s)
            self._counted = now
