"""The sentence that `qosctl status` begins with."""

from __future__ import annotations

import pytest
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.maps.counters import DeviceCounters, OuterTraffic
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.cli.summary import glance
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status

ATTACHED, DETACHED, GONE = DeviceState.ATTACHED, DeviceState.DETACHED, DeviceState.GONE


def device(name: str, state: DeviceState, stamped: int = 0) -> DeviceStatus:
    outcomes = {outcome: stamped if outcome is Outcome.STAMPED else 7 for outcome in Outcome}
    outcomes[Outcome.UNCHANGED] = 0
    counters = DeviceCounters(outcomes, {dscp: OuterTraffic(0, 0) for dscp in Dscp.all()})
    return DeviceStatus(name, 1, state, None, None, (), counters)


def flow(*, alive: bool) -> Flow:
    owner = Owner(1, 1, "tun0", "vpn.example")
    return Flow(FlowKey(("192.0.2.1", 1), ("192.0.2.2", 2)), owner, [0] * len(Statistic), alive)


TABLE: list[tuple[bool, list[DeviceStatus], list[Flow], str]] = [
    (True, [device("eth0", ATTACHED, 9)], [flow(alive=True)], "marking 1 tunnel on eth0"),
    (True, [device("eth0", ATTACHED, 9), device("wl0", ATTACHED)], [flow(alive=True)] * 2,
     "marking 2 tunnels on eth0, wl0"),
    (True, [device("eth0", ATTACHED)], [flow(alive=True)],
     "on, but no tunnel packet was marked on eth0 yet (try: qosctl doctor)"),
    (True, [device("eth0", ATTACHED, 9)], [flow(alive=False)],
     "on, and no tunnel is up: nothing to mark (try: qosctl connect)"),
    (False, [device("eth0", ATTACHED, 9)], [flow(alive=True)], "off: nothing is marked (try: qosctl passtos on)"),
    (True, [device("eth0", ATTACHED, 9), device("wl0", DETACHED)], [flow(alive=True)],
     "NOT MARKING on wl0: our program is gone (try: qosctl attach wl0)"),
    (True, [device("eth0", GONE, 9)], [flow(alive=True)], "NOT MARKING: nothing is attached (try: qosctl attach IFACE)"),
]  # fmt: skip


@pytest.mark.parametrize(("passtos", "devices", "flows", "said"), TABLE, ids=[row[3] for row in TABLE])
def test_the_worst_comes_first(passtos: bool, devices: list[DeviceStatus], flows: list[Flow], said: str) -> None:
    assert glance(Status(passtos, Policy.identity(), devices, flows)) == said
