"""What `qosctl flows` tells people of a tunnel."""

from __future__ import annotations

from typing import SupportsIndex, overload

from qosctl.bpf.flow_page.family import Line
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.flows import Flow
from qosctl.supervisor.cli.commands.flows import _lines


class Watched(tuple[int, ...]):
    """Statistics that note which of them were looked at."""

    seen: set[int]

    @overload
    def __getitem__(self, at: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...
    def __getitem__(self, at: SupportsIndex | slice) -> int | tuple[int, ...]:
        if isinstance(at, SupportsIndex):
            self.seen.add(int(at))
        return super().__getitem__(at)


def lines(statistics: tuple[int, ...]) -> list[str]:
    key = FlowKey(("192.0.2.1", 1), ("192.0.2.2", 443))
    return list(_lines(Flow(key, Owner(1, 0, "tun0", "vpn.example"), statistics)))


def test_it_shows_each_statistic_that_is_for_people() -> None:
    watched = Watched(TunnelState.DTLS if each is Statistic.STATE else 1 + each for each in Statistic)
    watched.seen = set()
    lines(watched)
    shown = {statistic.label for statistic in Statistic if statistic.line is not Line.JSON_ONLY}
    assert {statistic.label for statistic in Statistic if statistic in watched.seen} == shown


def test_a_line_lists_what_is_declared_for_it() -> None:
    said = [0] * len(Statistic)
    said[Statistic.DTLS_LOST], said[Statistic.BLACK_HOLES], said[Statistic.DROPPED_ECN] = 3, 1000, 2
    shown = [line.strip() for line in lines(tuple(said))]
    assert "dtls          3 times lost, 1,000 black holes" in shown
    assert "dropped       2: ecn 2" in shown
