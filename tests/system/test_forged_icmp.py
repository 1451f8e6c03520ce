"""ICMP from anywhere, forged: finding 2. It is a hint, and what the tunnel carries stays as it was."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from qosctl.dtls.transport.outer_sockets import MARK

from tests.lab import Capture, Frame, Ocserv
from tests.lab.icmp import EPHEMERAL, Forger
from tests.lab.testbed import TUNNEL, Line
from tests.system.flowing import Flowing

pytestmark = pytest.mark.audit

OCSERV = "dpd = 3\n"
LIES = {4: 552, 6: 1280}  # the least that the kernel believes (net.ipv4.route.min_pmtu; RFC 8200)
PROTOCOLS = {1, 6, 17, 58}  # no fragment's (44)
CLIENT = {4: "10.91.1.2", 6: "fd91:1::2"}


def _forger(line: Line, outer: int) -> Forger:
    return Forger(line.router, CLIENT[outer], line.topology.server_address(outer), line.server.port)


def _believed(line: Line, outer: int) -> int:
    """Return the path MTU that the kernel has been told of, 0 for none."""
    words = ["ip", "-j", "route", "get", line.topology.server_address(outer), "mark", str(MARK)]
    (route,) = json.loads(line.client.run(words).stdout)
    return int(next((metric["mtu"] for metric in route.get("metrics", []) if "mtu" in metric), 0))


def _statistics(line: Line) -> tuple[int, int, int, int]:
    """Return the state, and what must not change: sessions lost, packets that went over TLS, black holes."""
    said = line.qosctl.statistics()
    reconnects = sum(count for name, count in said.items() if name.startswith("reconnects_"))
    return said["state"], reconnects, said["packets_over_tls"], said["black_holes"]


def _device(line: Line) -> tuple[int, list[str]]:
    """Return MTU and addresses of the tunnel device."""
    (device,) = json.loads(line.client.run(["ip", "-j", "addr", "show", "dev", TUNNEL]).stdout)
    return device["mtu"], sorted(each["local"] for each in device["addr_info"])


def _pings(line: Line, size: int) -> None:
    """Send three packets of `size` bytes over each inner IP version, all of which come back."""
    for address, headers in ((Ocserv.inner4, 28), (Ocserv.inner6, 48)):
        line.client.run(["ping", "-M", "do", "-c", "3", "-i", "0.1", "-W", "2", "-s", str(size - headers), address])


def _whole(frames: list[Frame], port: int, size: int) -> list[Frame]:
    """Return the records that hold packets of `size` bytes."""
    return [frame for frame in frames if frame.outgoing and frame.destination_port == port and len(frame.payload) > size]


@pytest.mark.parametrize("outer", [4, 6])
def test_too_big_is_looked_into_and_changes_nothing(line: Line, outer: int) -> None:
    forger = _forger(line, outer)
    with line.connected(outer) as connection, Flowing(line.client, line.server_namespace) as flow:
        before, counted = _device(line), _statistics(line)
        full = before[0]
        _pings(line, full)
        for _ in range(2):
            forger.too_big(LIES[outer])
            with Capture(line.client, line.device) as wire:
                _pings(line, full)
                frames = wire.frames()
            assert len(_whole(frames, line.server.port, full)) >= 6
            assert not [frame for frame in frames if frame.outgoing and frame.protocol not in PROTOCOLS]
            time.sleep(1.2)  # until the next hint is heard, and the counts are shown
        assert _believed(line, outer) == LIES[outer], "the lie did not reach the kernel"
        assert _device(line) == before
        assert _statistics(line) == counted
        assert flow.lost() == 0
        assert connection.errors == ""


@pytest.mark.parametrize("outer", [4, 6])
def test_a_session_that_begins_after_a_lie_is_not_built_on_it(line: Line, outer: int) -> None:
    forger = _forger(line, outer)
    if outer == 4:  # and without any socket there
        forger.too_big_for_echo(LIES[outer])
        assert _believed(line, outer) == LIES[outer], "the lie did not reach the kernel"
    with line.connected(outer) as connection, Flowing(line.client, line.server_namespace, tcp=False) as flow:
        before = _device(line)
        assert before[0] == {4: 1434, 6: 1414}[outer]
        forger.too_big(LIES[outer])
        line.restart_server()
        connection.wait_for("connected again over DTLS")
        flow.wait(time.monotonic())
        assert _believed(line, outer) == LIES[outer]
        assert _device(line) == before


@pytest.mark.parametrize(("outer", "codes"), [(4, (0, 1, 2, 3, 9, 10, 13)), (6, (0, 1, 3, 4))])
def test_unreachable_is_no_reason_to_stop(line: Line, outer: int, codes: tuple[int, ...]) -> None:
    forger = _forger(line, outer)
    with line.connected(outer) as connection, Flowing(line.client, line.server_namespace) as flow:
        (before,) = line.qosctl.read("flows")["flows"]
        for code in codes:
            forger.unreachable(code, [before["local"]["port"]] * 50)
        assert flow.lost() == 0
        (after,) = line.qosctl.read("flows")["flows"]
        assert (before["local"], before["remote"]) == (after["local"], after["remote"])
        assert after["statistics"]["state"] == 2
        assert flow.tcp_works()
        assert connection.errors == ""


def test_a_flood_of_lies_about_the_port_in_use_costs_no_packet(line: Line) -> None:
    """Each lie is an error of the next system call: it must not be the packet's."""
    forger = _forger(line, 4)
    with line.connected(), Flowing(line.client, line.server_namespace) as flow:
        counted = _statistics(line)
        (before,) = line.qosctl.read("flows")["flows"]
        forger.too_big(LIES[4], [before["local"]["port"]] * len(EPHEMERAL))
        assert flow.lost() == 0
        time.sleep(1.2)  # until the counts are shown
        assert _statistics(line) == counted


def test_the_lab_tells_the_truth(line: Line) -> None:
    """The forger's packets are well-formed: a plain client's ping is made smaller by them."""
    with line.connected():
        _forger(line, 4).too_big(LIES[4])
        said = subprocess.run(
            line.client.argv(["ping", "-M", "do", "-c", "1", "-W", "1", "-s", "1400", line.topology.server4]),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "message too long" in (said.stdout + said.stderr).lower()
