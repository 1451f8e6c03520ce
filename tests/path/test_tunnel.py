"""With a running tunnel: is the marked class treated better, through a real server and a full uplink?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qosctl.bpf.dscp import DF, EF
from qosctl.supervisor.path.tunnel import ClassTimes, Comparison

from tests.lab import Bottleneck, Ocserv, Qosctl, Topology, bulk_udp


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


def test_round_trips_by_class_show_what_marking_is_worth(topology: Topology) -> None:
    qosctl = Qosctl(topology.client)
    with Ocserv(topology.server, [topology.server4]) as server:
        qosctl("attach", topology.client_if)
        qosctl("passtos", "on")
        with (
            qosctl.connect(server, topology.server4) as connection,
            Bottleneck(topology.router, topology.router_server_if, 10),
            bulk_udp(topology.client, topology.server, server.inner4, 15, seconds=7),
        ):
            said = qosctl.read("path", topology.server4)
            assert said["port"] == server.port
            assert said["tunnel"]["device"] == connection.device
            assert said["tunnel"]["verdict"] == "EF is treated better than DF"
            assert [times["dscp"] for times in said["tunnel"]["classes"]] == ["EF", "DF"]
        qosctl("detach", "--all")


@pytest.mark.parametrize(
    ("marked", "unmarked", "verdict"),
    [
        ([1.0, 1.1], [80.0, 90.0], "EF is treated better than DF"),
        ([1.0, 1.1], [], "EF is treated better than DF"),
        ([0.5], [0.9], "EF is not faster"),
        ([80.0], [81.0], "EF is not faster"),
        ([], [1.0], "tun0 does not answer"),
    ],
)
def test_the_verdict(marked: list[float], unmarked: list[float], verdict: str) -> None:
    compared = Comparison("tun0", ClassTimes(EF, marked, 0), ClassTimes(DF, unmarked, 0))
    assert verdict in compared.verdict


def test_without_a_tunnel_nothing_is_compared(topology: Topology) -> None:
    assert Qosctl(topology.client).read("path", topology.server4)["tunnel"] is None
