"""How many packets to ask a descriptor for at once: one while they come one by one, else all there are.

Asking until there is nothing left makes the longest batches, but it ends with a call in vain, and a lone packet, a voice
packet say, would wait for that. What is left is announced again at once, since the loop's epoll is level-triggered.

Packets may also be far apart because the loop was busy with another descriptor, while more and more of them waited. Nobody
who is served beside others therefore counts as sparse: one packet a round, and it would never catch up.
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
