"""Inner packets by class, and which class goes first where not all can.

The order is that of RFC 4594 and RFC 8325, which for most code points is their numeric order: network control, voice,
video, the assured classes, the default; then what asks for less than that, CS1 and LE (RFC 3662, RFC 8622).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from qosctl.bpf.dscp import DSCP_COUNT, Dscp
from qosctl.dtls.packets.inner_header import dscp_of

HELD_PACKETS = 512
"""What may wait for room in the socket: about what the tunnel device itself would hold."""
_LESS_THAN_DEFAULT = {Dscp.parse("CS1"): -1, Dscp.parse("LE"): -2}
_BY_URGENCY = sorted(Dscp.all(), key=lambda dscp: _LESS_THAN_DEFAULT.get(dscp, dscp.value), reverse=True)
_PLACE = tuple(map(_BY_URGENCY.index, Dscp.all()))


def place(dscp: Dscp) -> int:
    """Return where the class stands in the order, 0 to 63; 0 goes first."""
    return _PLACE[dscp.value]


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
        found.sort(key=lambda each: place(each[0]))
    return found


class Held:
    """Packets that wait because the socket is full. The most urgent leave first; the least urgent are lost first.

    Within a class the order is kept, and it is the newest packet that is lost.
    """

    def __init__(self, most: int = HELD_PACKETS) -> None:
        self._most = most
        self._count = 0
        self._waiting: list[deque[bytes]] = [deque() for _ in range(DSCP_COUNT)]  # by place

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def add(self, dscp: Dscp, packets: Sequence[bytes]) -> int:
        """Let packets of one class wait; returns how many were lost for it, of this class or a less urgent one."""
        self._waiting[place(dscp)].extend(packets)
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
        for dscp, each in zip(_BY_URGENCY, self._waiting, strict=True):
            if most and each:
                packets = [each.popleft() for _ in range(min(most, len(each)))]
                taken.append((dscp, packets))
                most -= len(packets)
                self._count -= len(packets)
        return taken
