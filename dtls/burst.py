"""How many packets to ask a descriptor for at once: about as many as came the last time.

Asking until there is nothing left costs a call in vain, and a lone packet, a voice packet say, would wait for it. So the
number follows the traffic: one while packets come one by one, more as soon as they come thick and fast. What is left is
announced again at once, since the loop's epoll is level-triggered.
"""

from __future__ import annotations

DENSE_S = 0.0001
"""A packet in this time, and there may well be more where it came from."""


class Burst:
    """Follows one descriptor's traffic. Use `limit`, then tell `came`."""

    __slots__ = ("_came_at", "_most", "limit")

    limit: int
    """What to ask for now, 1 to `most`."""

    def __init__(self, most: int) -> None:
        self.limit = 1
        self._most = most
        self._came_at = float("-inf")

    def came(self, count: int, now: float) -> None:
        """Learn that `count` packets were there, `limit` at most, when asked at `now` (seconds, monotonic)."""
        if count < self.limit:
            self.limit = max(1, count)
        elif self.limit < self._most and now - self._came_at < count * DENSE_S:
            self.limit = min(2 * self.limit, self._most)
        self._came_at = now
