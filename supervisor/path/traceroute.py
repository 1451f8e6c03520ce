"""Hop after hop towards a host, at the pace that routers are willing to answer at.

A router limits its ICMP errors (Linux: six in a burst, then one a second for each peer), so no hop is asked more than
`_TRIES` times, a probe leaves no sooner than `_PACE` seconds after the last, and a hop that answers is not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.dscp import Dscp, Ecn, TrafficClass
from qosctl.supervisor.path.probe import Heard, Prober, Sent

HOPS_MAX = 30
_TRIES = 3
_PACE = 0.1  # seconds between two probes, whoever they are for
_PATIENCE_MIN, _PATIENCE_MAX = 0.15, 0.5  # seconds until a hop is asked again; a later answer still counts
_PATIENCE_ROUND_TRIPS = 3
_SILENT_MAX = 4  # hops in a row that say nothing: the trail is lost

_MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Hop:
    """One hop. `address` and `arrived` are None where it quotes nothing; `end` is set on the host, or whoever refused."""

    number: int
    address: str | None = None
    sent: TrafficClass | None = None
    arrived: TrafficClass | None = None
    round_trip_ms: float | None = None
    end: str = ""


@dataclass(frozen=True)
class Trace:
    """All hops in order up to the last one that answered; `reached` when that was the host itself."""

    address: str
    port: int
    mark: Dscp
    hops: Sequence[Hop]
    reached: bool

    @property
    def silent(self) -> int:
        """How many hops before the last known one quote nothing."""
        return sum(hop.arrived is None for hop in self.hops)


def trace(address: str, port: int, mark: Dscp) -> Trace:
    """Follow the way of a `mark`ed datagram to `address`:`port`.

    Raises NoPermissionError without CAP_NET_RAW and RefusedError where this machine has no route.
    """
    with Prober(address, port) as prober:
        walk = _Walk(prober, mark)
        for number in range(1, HOPS_MAX + 1):
            walk.visit(number)
            if walk.over(number):
                break
        if walk.anything_open():
            walk.hear_until(time.monotonic() + 2 * walk.patience())
        hops = walk.hops()
    return Trace(address, port, mark, hops, bool(hops) and hops[-1].end == "reached")


class _Walk:
    """The probes sent and the answers heard so far."""

    def __init__(self, prober: Prober, mark: Dscp) -> None:
        self._prober = prober
        self._mark = mark
        self._sent: dict[int, Sent] = {}
        self._found: dict[int, Hop] = {}
        self._asked = 0
        self._next = 0.0

    def visit(self, number: int) -> None:
        """Ask a hop until it answers or has been asked often enough.

        The first probe says that it understands ECN (ECT(0), RFC 3168), to see whether those bits survive; the others say
        Not-ECT as the tunnel's own packets do, lest somebody drops the first kind.
        """
        self._asked = number
        for attempt in range(_TRIES):
            if number in self._found:
                break
            self.hear_until(self._next)
            sent = self._prober.send(number, TrafficClass.of(self._mark, Ecn.NOT_ECT if attempt else Ecn.ECT_0))
            self._sent[sent.number] = sent
            self._next = sent.at + _PACE
            self.hear_until(sent.at + self.patience(), wanted=number)

    def over(self, number: int) -> bool:
        """Whether the end is found, or the trail lost."""
        if any(hop.end for hop in self._found.values()):
            return True
        return number - max(self._found, default=0) >= _SILENT_MAX

    def patience(self) -> float:
        """How long to wait for a hop, in seconds: some of the longest round trips so far, within bounds."""
        longest = max((hop.round_trip_ms or 0.0 for hop in self._found.values()), default=_PATIENCE_MAX * _MILLISECONDS)
        return min(max(_PATIENCE_ROUND_TRIPS * longest / _MILLISECONDS, _PATIENCE_MIN), _PATIENCE_MAX)

    def anything_open(self) -> bool:
        """Whether an answer may still be on its way."""
        return any(number not in self._found for number in range(1, self._asked + 1))

    def hear_until(self, until: float, wanted: int = 0) -> None:
        """Take in answers until then, or until hop `wanted` has answered."""
        while wanted not in self._found:
            heard = self._prober.listen(until)
            if heard is None:
                return
            self._note(heard)

    def hops(self) -> list[Hop]:
        """Return all hops up to the end, or up to the last that answered."""
        last = min((n for n, hop in self._found.items() if hop.end), default=max(self._found, default=0))
        return [self._found.get(number, Hop(number)) for number in range(1, last + 1)]

    def _note(self, heard: Heard) -> None:
        sent = self._sent[heard.number]
        complaint = heard.complaint
        end = "" if complaint.expired else "reached" if complaint.port_closed else "unreachable"
        hop = Hop(
            sent.hop_limit, heard.sender, sent.traffic_class, complaint.quote.traffic_class,
            (heard.at - sent.at) * _MILLISECONDS, end,
        )  # fmt: skip
        self._found.setdefault(sent.hop_limit, hop)
