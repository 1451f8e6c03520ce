"""With a running tunnel: is the marked class treated better, through a real server and a full uplink?"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from subprocess import PIPE

import pytest
from qosctl.bpf.dscp import DF, EF
from qosctl.bpf.flow_page import rtt_request
from qosctl.bpf.flow_page.page import statistics_in
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState
from qosctl.bpf.maps.namespace_maps import flow_pins, folder
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.status import flows
from qosctl.supervisor.path.rtt import ROUNDS, DscpTimes
from qosctl.supervisor.path.tunnel import Comparison, Echo

from tests.lab import Bottleneck, Namespace, Ocserv, Qosctl, Topology, bulk_udp
from tests.lab.qosctl import COMMAND
from tests.lab.waiting import until
from tests.lab.wire import ADDRESSES, NEAR, stand
from tests.test_json import faults


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def server(topology: Topology) -> Iterator[Ocserv]:
    qosctl = Qosctl(topology.client)
    with Ocserv(topology.server, [topology.server4, topology.server6]) as server:
        qosctl.attach(topology.client_if)
        qosctl("passtos", "on")
        yield server
        qosctl.detach_all()


@contextlib.contextmanager
def no_pings(namespace: Namespace) -> Iterator[None]:
    """Whoever answers inside the block, it is not the kernel's ICMP echo."""
    namespace.sysctl("net.ipv4.icmp_echo_ignore_all", "1")
    yield
    namespace.sysctl("net.ipv4.icmp_echo_ignore_all", "0")


def over_dtls(topology: Topology) -> None:
    """Wait until DTLS carries the one tunnel: beside other load TLS does at first, which is another case."""

    def carries() -> bool:
        with topology.client.entered():
            return [flow.statistics[Statistic.STATE] for flow in flows()] == [TunnelState.DTLS]

    until(carries)


@pytest.mark.parametrize("family", [4, 6])
def test_the_dpd_echo_by_class_shows_what_marking_is_worth(topology: Topology, server: Ocserv, family: int) -> None:
    qosctl = Qosctl(topology.client)
    address = topology.server_address(family)
    with (
        qosctl.connect(server, address) as connection,
        Bottleneck(topology.router, topology.router_server_if, 10),
        bulk_udp(topology.client, topology.server, server.inner4, 15, seconds=60),  # ends with the block
        no_pings(topology.server),
    ):
        device, said = connection.device, qosctl.read("path", address)
    tunnel = said["tunnel"]
    assert faults("path", said) == []
    assert said["port"] == server.port
    assert (tunnel["device"], tunnel["echo"], tunnel["note"]) == (device, "dpd", "")
    assert tunnel["verdict"] == "EF is treated better than DF"
    marked, unmarked = tunnel["classes"]
    assert (marked["dscp"], unmarked["dscp"]) == ("EF", "DF")
    assert len(marked["round_trips_ms"]) + marked["lost"] == ROUNDS
    assert len(unmarked["round_trips_ms"]) + unmarked["lost"] == ROUNDS
    assert min(unmarked["round_trips_ms"], default=1000) > 3 * sorted(marked["round_trips_ms"])[ROUNDS // 2]


def test_people_are_told_who_answered_and_why_there_is_no_difference(topology: Topology, server: Ocserv) -> None:
    qosctl = Qosctl(topology.client)
    with qosctl.connect(server, topology.server4) as connection:
        over_dtls(topology)
        device = connection.device
        qosctl("passtos", "off")
        try:
            lines = qosctl("path", topology.server4).stdout.splitlines()
        finally:
            qosctl("passtos", "on")
    assert f"round trips through {device}, by the tunnel's own DPD echo, in turns:" in lines
    assert any(line.startswith("    EF    ") and "ms median" in line for line in lines)
    assert lines[-2] == "passtos is off, so both left unmarked"
    assert lines[-1].startswith("EF is not faster than DF")


def test_a_client_that_gave_up_root_answers_too(topology: Topology, server: Ocserv) -> None:
    qosctl = Qosctl(topology.client)
    with qosctl.connect(server, topology.server4, "--setuid", "nobody"):
        over_dtls(topology)
        assert qosctl.read("path", topology.server4)["tunnel"]["echo"] == "dpd"


def test_a_client_that_goes_in_the_middle_is_told_of(topology: Topology, server: Ocserv) -> None:
    qosctl = Qosctl(topology.client)
    with qosctl.connect(server, topology.server4) as connection:
        over_dtls(topology)
        os.kill(connection.process.pid, signal.SIGSTOP)  # or it might have answered all by then
        with topology.client.entered():
            (flow,) = flows()
            words = rtt_request.opened(flow_pins(folder()).open_ring(flow.ring_id))
        asking = topology.client.popen([str(COMMAND), "path", topology.server4], stdout=PIPE, stderr=PIPE)
        while not rtt_request.id_in(words):
            assert asking.poll() is None
            time.sleep(0.01)
        connection.process.kill()
        out, err = asking.communicate(timeout=30)
    assert (asking.returncode, err) == (0, "")
    assert "no DPD echo of tun0: the client has gone" in out
    qosctl("attach", topology.client_if)  # clears the dead flow away


def test_a_client_that_hangs_is_told_of_and_answers_when_it_goes_on(topology: Topology, server: Ocserv) -> None:
    qosctl = Qosctl(topology.client)
    with qosctl.connect(server, topology.server4) as connection:
        over_dtls(topology)
        os.kill(connection.process.pid, signal.SIGSTOP)
        try:
            said = qosctl.read("path", topology.server4)
        finally:
            os.kill(connection.process.pid, signal.SIGCONT)
        assert said["tunnel"]["echo"] == "icmp"
        assert "the client does not answer" in said["tunnel"]["note"]
        assert "nothing to compare" in said["tunnel"]["verdict"]
        assert qosctl.read("path", topology.server4)["tunnel"]["echo"] == "dpd"


def test_a_tunnel_over_tls_is_told_of(topology: Topology, server: Ocserv) -> None:
    qosctl = Qosctl(topology.client)
    no_udp = "table inet t { chain c {\ntype filter hook forward priority 0; meta l4proto udp drop\n}\n}\n"
    topology.router.run(["nft", "-f", "-"], stdin=no_udp)
    try:
        with qosctl.connect(server, topology.server4):
            said = qosctl.read("path", topology.server4)
    finally:
        topology.router.run(["nft", "delete", "table", "inet", "t"])
    assert said["tunnel"]["echo"] == "icmp"
    assert "do not go over DTLS" in said["tunnel"]["note"]
    assert len(said["tunnel"]["classes"][0]["round_trips_ms"]) == ROUNDS


def test_a_client_of_an_older_version_is_told_of() -> None:
    """Here one that never looks: a flow of this very process, and no device behind its name."""
    with stand() as built:
        attach([NEAR])
        with built.tunnel() as tunnel:
            statistics_in(tunnel.ring.page)[Statistic.STATE] = 2
            said = Qosctl(built.sender).read("path", ADDRESSES[4][1])
            assert tunnel.ring.rtt_requests.current_id() == 0  # the request does not stay
    assert faults("path", said) == []
    assert said["tunnel"]["echo"] == "icmp"
    assert "older version" in said["tunnel"]["note"]
    assert "passtos is off" in said["tunnel"]["note"]


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
    compared = Comparison("tun0", Echo.DPD, DscpTimes(EF, marked, 0), DscpTimes(DF, unmarked, 0))
    assert verdict in compared.verdict


def test_without_a_tunnel_nothing_is_compared(topology: Topology) -> None:
    assert Qosctl(topology.client).read("path", topology.server4)["tunnel"] is None
