"""What a network does to a session, and how soon packets flow again."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Connection
from tests.lab.lock import somebody_holds_the_lock
from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.lab.wiretap import Wiretap
from tests.system.flowing import EF_BYTE, Flowing, Row, note

DPD_S = 2
OCSERV = f"dpd = {DPD_S}\n"
BOUND_S = 20.0
ROUTER = "10.91.1.1"


@contextlib.contextmanager
def no_udp(line: Line) -> Iterator[None]:
    """Let the router drop the tunnel's UDP packets, both ways."""
    rules = f"udp dport {line.server.port} drop; udp sport {line.server.port} drop"
    with line.topology.dropping(rules):
        yield


@contextlib.contextmanager
def through_relay(line: Line, *more: str, seed: int = 1) -> Iterator[tuple[Relay, Connection]]:
    """Be connected to a relay on the router, which speaks to the server."""
    with (
        Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=seed) as relay,
        line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL, *more) as connection,
    ):
        yield relay, connection


def _flows(line: Line) -> list[dict[str, Any]]:
    """Return the flows, of which there is none while one takes the place of another."""
    said: list[dict[str, Any]] = json.loads(line.qosctl("flows", "--json", check=False).stdout)["flows"]
    return said


def state(line: Line) -> int:
    """2 DTLS, 1 TLS, 0 neither."""
    return max((int(flow["statistics"]["state"]) for flow in _flows(line)), default=0)


def test_a_network_that_goes_and_comes_back_beyond_the_first_hop(line: Line) -> None:
    with line.connected() as connection, Flowing(line.client, line.server_namespace) as flow:
        line.router.run(["ip", "link", "set", "dev", line.topology.router_server_if, "down"])
        connection.wait_for("connecting again", 30)  # the server is given up by then
        line.router.run(["ip", "link", "set", "dev", line.topology.router_server_if, "up"])
        line.router.run(["ip", "addr", "replace", "fd91:2::1/64", "dev", line.topology.router_server_if, "nodad"])
        seconds = flow.wait(time.monotonic())
        kept, lost = flow.tcp_works(), flow.lost()
    note(Row("no way to the server, and back", "stopped answering over TLS ... connected again", "it is back",
             seconds, lost, kept))  # fmt: skip
    assert kept
    assert seconds < BOUND_S


def test_a_cable_that_is_pulled_for_a_moment(line: Line) -> None:
    with line.connected(), Flowing(line.client, line.server_namespace) as flow:
        (before,) = line.qosctl.read("flows")["flows"]
        line.client.run(["ip", "link", "set", "dev", line.device, "down"])
        time.sleep(1)
        line.client.run(["ip", "link", "set", "dev", line.device, "up"])
        line.client.run(["ip", "route", "add", "default", "via", ROUTER])
        seconds = flow.wait(time.monotonic())
        kept, lost = flow.tcp_works(), flow.lost()
        (after,) = line.qosctl.read("flows")["flows"]
        line.client.run(["ip", "addr", "replace", "fd91:1::2/64", "dev", line.device, "nodad"])
        line.client.run(["ip", "route", "replace", "default", "via", "fd91:1::1"])
    note(Row("cable pulled for 1 s, same address", "nothing", "the route is back", seconds, lost, kept))
    assert kept
    assert before["local"] == after["local"]


def test_another_address_and_another_route(attached: Line, tap: Wiretap) -> None:
    """As from Wi-Fi to LTE: the old address goes, and packets leave from a new one by a new way."""
    attached.qosctl("passtos", "on")
    client, device = attached.client, attached.device
    with attached.connected() as connection, Flowing(client, attached.server_namespace) as flow:
        client.run(["ip", "addr", "add", "10.91.1.77/24", "dev", device])
        client.run(["ip", "addr", "del", "10.91.1.2/24", "dev", device])  # and the second becomes the first
        client.run(["ip", "addr", "replace", "10.91.1.77/24", "dev", device])
        client.run(["ip", "route", "replace", "default", "via", ROUTER])
        seconds = flow.wait(time.monotonic())
        kept, lost = flow.tcp_works(), flow.lost()
        (after,) = attached.qosctl.read("flows")["flows"]
        assert after["local"]["address"] == "10.91.1.77"
        assert after["statistics"]["reconnects_address_changed"] == 1
        assert "our address has changed" in connection.errors
        marked = [r.frame.dscp for r in tap.sent() if r.inner and r.inner.traffic_class == EF_BYTE]
        assert set(marked) == {46}
        client.run(["ip", "addr", "add", "10.91.1.2/24", "dev", device])
        client.run(["ip", "addr", "del", "10.91.1.77/24", "dev", device])
        client.run(["ip", "addr", "replace", "10.91.1.2/24", "dev", device])
        client.run(["ip", "route", "replace", "default", "via", ROUTER])
    note(Row("another local address and route", "our address has changed ... connected again", "the new route",
             seconds, lost, kept))  # fmt: skip
    assert kept
    assert seconds < BOUND_S


def test_a_better_route_from_another_address_while_the_old_one_works(line: Line) -> None:
    """As when a cable is plugged in beside Wi-Fi: what works stays as it is, because it proves that it does."""
    client, device = line.client, line.device
    with line.connected() as connection, Flowing(client, line.server_namespace) as flow:
        (before,) = line.qosctl.read("flows")["flows"]
        client.run(["ip", "addr", "add", "10.91.1.77/24", "dev", device])
        client.run(["ip", "route", "replace", "default", "via", ROUTER, "src", "10.91.1.77"])
        changed = time.monotonic()
        seconds = flow.wait(changed)
        time.sleep(3)  # for longer than the old address has to prove itself
        kept, lost = flow.tcp_works(), flow.lost()
        (after,) = line.qosctl.read("flows")["flows"]
        assert before["local"] == after["local"]
        assert connection.errors == ""
        client.run(["ip", "route", "replace", "default", "via", ROUTER])
        client.run(["ip", "addr", "del", "10.91.1.77/24", "dev", device])
    note(Row("a better route from another address, the old one works", "nothing", "the new route", seconds, lost, kept))
    assert kept


def test_udp_that_is_blocked_for_a_while(attached: Line, tap: Wiretap) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection, Flowing(attached.client, attached.server_namespace) as flow:
        with no_udp(attached):
            blocked = time.monotonic()
            seconds = flow.wait(blocked)
            assert state(attached) == 1
            lost = flow.lost()
            assert flow.tcp_works()
            opened = time.monotonic()
        until(lambda: state(attached) == 2, 30)
        again = time.monotonic() - opened
        assert "packets go over TLS, unmarked, until DTLS works" in connection.errors
        assert "packets go over DTLS again" in connection.errors
        until(lambda: flow.wait(time.monotonic()) >= 0, 30)
        marked = [r.frame.dscp for r in tap.sent() if r.inner and r.inner.traffic_class == EF_BYTE]
        assert set(marked) == {46}
        kept = flow.tcp_works()
    note(Row("UDP blocked", "no answer over UDP any more: packets go over TLS, unmarked", "blocked", seconds, lost, kept))
    note(Row("UDP open again", "packets go over DTLS again", "open", again, 0, kept))
    assert kept
    assert seconds < BOUND_S
    assert again < BOUND_S


def test_udp_that_is_blocked_from_the_start(line: Line) -> None:
    with contextlib.ExitStack() as stack:
        with no_udp(line):
            began = time.monotonic()
            connection = stack.enter_context(line.connected())
            flow = stack.enter_context(Flowing(line.client, line.server_namespace))
            seconds = time.monotonic() - began
            assert state(line) == 1
            assert "packets go over TLS, unmarked" in connection.errors
        until(lambda: state(line) == 2, 30)
        kept, lost = flow.tcp_works(), flow.lost()
    note(
        Row("UDP blocked from the start", "no answer over UDP: packets go over TLS, unmarked", "start", seconds, lost, kept)
    )
    assert kept


def test_a_nat_that_forgets(line: Line) -> None:
    with through_relay(line) as (relay, _), Flowing(line.client, line.server_namespace) as flow:
        rebound = time.monotonic()
        relay.rebind()
        seconds = flow.wait(rebound)
        until(lambda: state(line) == 2, 30)
        kept, lost = flow.tcp_works(), flow.lost()
    note(Row("NAT forgets the UDP flow", "nothing, or: packets go over TLS ... over DTLS again", "forgotten",
             seconds, lost, kept))  # fmt: skip
    assert kept
    assert seconds < BOUND_S


@pytest.mark.parametrize("how", ["reset", "stall"])
def test_tls_that_dies_while_dtls_lives(line: Line, how: str) -> None:
    with through_relay(line) as (relay, connection), Flowing(line.client, line.server_namespace) as flow:
        died = time.monotonic()
        relay.set(tcp=how)
        connection.wait_for("connecting again", 30)
        ended = time.monotonic()
        relay.set(tcp="pass")
        seconds = flow.wait(ended)
        kept, lost = flow.tcp_works(), flow.lost()
    words = {"reset": "connection reset", "stall": "stopped answering over TLS"}[how]
    note(Row(f"TLS dead ({how}), DTLS alive", f"{words} ... connected again", "its end", seconds, lost, kept))
    assert ended - died < BOUND_S
    assert kept


def test_a_client_that_was_stopped(line: Line) -> None:
    """Stopped for longer than the server waits: the session is gone when it wakes."""
    with line.connected() as connection, Flowing(line.client, line.server_namespace) as flow:
        connection.process.send_signal(signal.SIGSTOP)
        time.sleep(3 * DPD_S + 2)
        connection.process.send_signal(signal.SIGCONT)
        seconds = flow.wait(time.monotonic())
        kept, lost = flow.tcp_works(), flow.lost()
    words = "the server closed the connection ... connected again"
    note(Row("stopped (SIGSTOP) until the server gave up", words, "continued", seconds, lost, kept))
    assert kept
    assert seconds < BOUND_S


@pytest.mark.audit
def test_udp_that_goes_and_comes_back_while_another_command_holds_the_lock(attached: Line, tap: Wiretap) -> None:
    """Finding 13: the client waited for the lock, and the session died meanwhile. Marking waits; packets do not."""
    attached.qosctl("passtos", "on")
    with attached.connected() as connection, Flowing(attached.client, attached.server_namespace) as flow:
        with somebody_holds_the_lock():
            with no_udp(attached):
                seconds = flow.wait(time.monotonic())
                assert flow.tcp_works()
            connection.wait_for("packets go over DTLS again", 30)
            flow.wait(time.monotonic())
            kept = flow.tcp_works()
            tap.forget()
            flow.wait(time.monotonic())
            unmarked = {r.frame.dscp for r in tap.sent() if r.inner and r.inner.traffic_class == EF_BYTE}
        until(lambda: state(attached) == 2, 30)
        flow.wait(time.monotonic())
        tap.forget()
        flow.wait(time.monotonic())
        marked = {r.frame.dscp for r in tap.sent() if r.inner and r.inner.traffic_class == EF_BYTE}
        lost = flow.lost()
        assert "connecting again" not in connection.errors
    assert (unmarked, marked) == ({0}, {46})
    words = "no answer over UDP any more: packets go over TLS, unmarked ... packets go over DTLS again"
    note(Row("UDP blocked and open again while another command hangs", words, "blocked", seconds, lost, kept))
    assert kept


def test_a_client_that_was_killed_is_followed_by_one_that_connects(line: Line) -> None:
    with line.connected() as connection:
        connection.process.kill()
        connection.process.wait()
    began = time.monotonic()
    with line.connected(), Flowing(line.client, line.server_namespace) as flow:
        seconds = time.monotonic() - began
        assert len(line.qosctl.read("flows")["flows"]) == 1
        lost = flow.lost()
    note(Row("client killed, started again", "as at any start", "start", seconds, lost, False))


def test_a_way_to_the_server_through_its_own_tunnel_is_said_with_what_mends_it(line: Line) -> None:
    """It was told to `--verbose` alone, or after a while, and nobody else could know what the client waits for."""
    own = [f"{line.topology.server4}/32", "dev", TUNNEL]
    with line.connected() as connection:
        line.client.run(["ip", "route", "add", *own])
        connection.wait_for("connecting again", 30)
        connection.wait_for("no way to the server but through its own tunnel (try: ip route): trying again", 30)
        assert "no session for" not in connection.errors
        line.client.run(["ip", "route", "del", *own])
        connection.wait_for("connected again", 30)
