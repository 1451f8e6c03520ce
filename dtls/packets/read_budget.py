"""How many packets to ask a descriptor for at once: one while they come one by one, else all there are.

To read until nothing is left makes the longest batches, but the last read finds nothing, and a packet that came alone
(voice, say) would wait for that read. What is left is announced again at once, since the loop's epoll is level-triggered.

Packets may also come far apart because the loop was busy with another descriptor while they queued. So a descriptor that is
served in the same round as others never counts as sparse: with one packet a round it would never catch up.
"""

from __future__ import annotations

SPARSE_S = 0.0005
"""Packets further apart than this come one by one."""


class ReadBudget:
    """Follows one descriptor's traffic. Use `limit`, then tell `came`."""

    __slots__ = ("_came_at", "_most", "limit")

    limit: int
    """What to ask for now: 1 or `most`."""

    def __init__(self, most: int) -> None:
        self.limit = 1
        self._most = most
        self._came_at = float("-inf")

    def came(self, count: int, now: float, ready: int) -> None:
        """Learn that `count` packets were there when asked at `now` (monotonic seconds), with `ready` descriptors ready."""
        self.limit = 1 if ready == 1 and now - self._came_at > count * SPARSE_S else self._most
        self._came_at = now
