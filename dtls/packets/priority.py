"""Inner packets by class, and which of them wait where not all can leave: the most urgent go first (`urgency`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from qosctl.bpf.dscp import DSCP_COUNT, Dscp
from qosctl.dtls.packets.inner_header import dscp_of
from qosctl.dtls.urgency import BY_URGENCY, rank

HELD_PACKETS = 512
"""What may wait for room in the socket: about what the tunnel device itself would hold."""


def by_class(packets: Sequence[bytes]) -> list[tuple[Dscp, list[bytes]]]:
    """Return the classes of `packets`, the most urgent first, each with its packets in their order."""
    classes: dict[Dscp, list[bytes]] = {}
    for packet in packets:
        dscp = dscp_of(packet)
        if dscp in classes:
            classes[dscp].append(packet)
        else:
            classes[dscp] = [packet]
    found = list(classes.items())
    if len(found) > 1:
        found.sort(key=lambda each: rank(each[0]))
    return found


class PriorityQueue:
    """Packets that wait because the socket is full. The most urgent leave first; the least urgent are lost first.

    Within a class the order is kept, and it is the newest packet that is lost.
    """

    def __init__(self, most: int = HELD_PACKETS) -> None:
        self._most = most
        self._count = 0
        self._waiting: list[deque[bytes]] = [deque() for _ in range(DSCP_COUNT)]  # by rank

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def add(self, dscp: Dscp, packets: Sequence[bytes]) -> int:
        """Let packets of one class wait; returns how many were lost for it, of this class or a less urgent one."""
        self._waiting[rank(dscp)].extend(packets)
        self._count += len(packets)
        lost = 0
        while self._count > self._most:
            least = next(each for each in reversed(self._waiting) if each)
            least.pop()
            self._count -= 1
            lost += 1
        return lost

    def take(self, most: int) -> list[tuple[Dscp, list[bytes]]]:
        """Return up to `most` packets, the most urgent class first, as `by_class` does; they wait no longer."""
        taken: list[tuple[Dscp, list[bytes]]] = []
        for dscp, each in zip(BY_URGENCY, self._waiting, strict=True):
            if most and each:
                packets = [each.popleft() for _ in range(min(most, len(each)))]
                taken.append((dscp, packets))
                most -= len(packets)
                self._count -= len(packets)
        return taken
