"""What others on this machine send to the server's address: inside, where its routes say so (ServerIP of TunnelCrack).

Whoever answers for the server's name chooses that address. If all packets to it left outside of the tunnel, those to any
address that somebody wants to see in clear would.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from qosctl.supervisor.doctor.host_snapshot import way_out

from tests.lab import Capture, Connection, Frame, Ocserv
from tests.lab.testbed import TUNNEL, Line
from tests.system.leaks import Leaks

OCSERV = "dpd = 3\n"
ROUTER = {4: "10.91.1.1", 6: "fd91:1::1"}
REFUSED = 2
_STRANGERS_PORT = 24999
_ECHO = {1: 4, 58: 6}  # ICMP's and ICMPv6's protocol numbers
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_INTERVAL_S = 0.02


class Strangers:
    """Send to the server's address all that the tunnel does not: pings, UDP and TCP to its own ports and to others."""

    def __init__(self, line: Line, server: Ocserv, outer: int) -> None:
        self._line, self._port, self._outer = line, server.port, outer
        self.address = line.topology.server_address(outer)
        self._stop = threading.Event()
        self._rounds = 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._capture = Capture(line.client, line.device, self._is_strangers)

    def __enter__(self) -> Self:
        self._capture.__enter__()
        with self._line.client.entered():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._capture.stop()

    @property
    def outside(self) -> set[tuple[int, int]]:
        """What has left outside of the tunnel until now, after some more of each: protocol and destination port."""
        until = self._rounds + 5
        while self._rounds < until:
            time.sleep(_INTERVAL_S)
        return {(frame.protocol, frame.destination_port) for frame in self._capture.frames()}

    def forget(self) -> None:
        """Begin to look only now."""
        self._capture.clear()

    def arrives(self) -> bool:
        """Whether the server answers a ping, and takes a connection to the port of the tunnel's own."""
        pinged = self._line.client.run(["ping", "-c", "1", "-W", "2", self.address], check=False).returncode == 0
        with self._line.client.entered(), socket.socket(_FAMILY[self._outer]) as stranger:
            stranger.settimeout(2)
            return pinged and stranger.connect_ex((self.address, self._port)) == 0

    def refused(self) -> bool:
        """Whether the kernel says at once that there is no way."""
        with self._line.client.entered(), socket.socket(_FAMILY[self._outer], socket.SOCK_DGRAM) as stranger:
            return stranger.connect_ex((self.address, self._port)) in {errno.EHOSTUNREACH, errno.ENETUNREACH}

    def _is_strangers(self, frame: Frame) -> bool:
        mine = frame.source_port == _STRANGERS_PORT or frame.protocol in _ECHO
        return frame.outgoing and frame.destination == self.address and mine

    def _send(self) -> None:
        family = _FAMILY[self._outer]
        while not self._stop.wait(_INTERVAL_S):
            for port in (self._port, 53):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    with socket.socket(family, kind) as stranger, contextlib.suppress(OSError):
                        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        stranger.bind(("", _STRANGERS_PORT))
                        stranger.setblocking(False)
                        stranger.connect_ex((self.address, port))
                        if kind == socket.SOCK_DGRAM:
                            stranger.send(b"stranger")
            self._line.client.run(["ping", "-c", "1", "-W", "0.1", self.address], check=False)
            self._rounds += 1


def words(line: Line, server: Ocserv, *more: str, outer: int = 4, tunnel: str = TUNNEL) -> list[str]:
    address = line.topology.server_address(outer)
    host = f"[{address}]" if ":" in address else address
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
    return ["connect", f"https://{host}:{server.port}", *login, "-i", tunnel, *more]


@contextlib.contextmanager
def put_right(line: Line) -> Iterator[None]:
    """Undo what a killed client has left of routes: vpnc-script takes one route to the server away for each it has set."""
    try:
        yield
    finally:
        line.client.run(["ip", "-4", "route", "replace", "default", "via", ROUTER[4]])
        for version in (4, 6):
            line.client.run(["ip", f"-{version}", "route", "flush", line.topology.server_address(version)], check=False)


@pytest.mark.audit
@pytest.mark.parametrize("outer", [4, 6])
def test_only_the_tunnels_own_packets_leave_for_the_server(line: Line, outer: int) -> None:
    """Before and after new sessions; blocked when the client is killed, until the next one takes over."""
    with put_right(line), Leaks(line) as leaks:
        with (
            Connection(line.client, words(line, line.server, outer=outer)) as connection,
            Strangers(line, line.server, outer) as strangers,
        ):
            assert leaks.flows()
            assert strangers.arrives()
            strangers.forget()
            assert strangers.outside == set()
            line.restart_server()
            connection.wait_for("connected again over DTLS", 30)
            assert leaks.flows()
            assert strangers.arrives()
            assert strangers.outside == set()
            connection.process.kill()
            connection.process.wait()
            assert strangers.outside == set()
        with (
            Connection(line.client, words(line, line.server, outer=outer)),
            Strangers(line, line.server, outer) as strangers,
        ):
            assert leaks.flows()
            assert strangers.arrives()
            assert strangers.outside == set()


@pytest.mark.audit
def test_with_its_helper_a_killed_clients_server_is_blocked_like_the_rest(line: Line) -> None:
    """Nobody is left to undo the script's routes, one of which leads to the server."""
    with put_right(line), Leaks(line) as leaks:
        with Connection(line.client, words(line, line.server)) as connection, Strangers(line, line.server, 4) as strangers:
            assert leaks.flows()
            leaks.forget()
            strangers.forget()
            connection.kill_both()
            assert leaks.tried(100)
            assert strangers.outside == set()
            assert strangers.refused()
            line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])  # as whoever hands out addresses does
            assert leaks.tried(100)
            assert leaks.seen() == []
            assert strangers.outside == set()
        with Connection(line.client, words(line, line.server)):
            assert leaks.flows()
            assert leaks.seen() == []


@pytest.mark.audit
def test_without_its_helper_a_client_ends_at_the_next_session_and_all_stays_blocked(line: Line) -> None:
    """It cannot make a socket whose packets would stay outside, and one without the mark would run in a circle."""
    with put_right(line), Leaks(line) as leaks:
        with Connection(line.client, words(line, line.server)) as connection, Strangers(line, line.server, 4) as strangers:
            assert leaks.flows()
            leaks.forget()
            strangers.forget()
            os.kill(connection.helper, signal.SIGKILL)
            assert leaks.flows()
            line.restart_server()
            assert connection.process.wait(30) == REFUSED
            assert (
                "the helper is gone, and without it the tunnel cannot connect again (try: connect anew)"
                in connection.errors
            )
            assert leaks.tried(100)
            assert leaks.seen() == []
            assert strangers.outside == set()
        with Connection(line.client, words(line, line.server)):
            assert leaks.flows()


def test_where_the_server_names_other_networks_its_address_is_reached_as_before(line: Line) -> None:
    named = "dpd = 3\nroute = 203.0.113.0/255.255.255.0\nroute = 2001:db8::/48\n"
    everything = {(1, 0), (17, 4449), (17, 53), (6, 4449), (6, 53)}
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=4449, more=named) as server,
        Connection(line.client, words(line, server)),
        Strangers(line, server, 4) as strangers,
    ):
        assert strangers.arrives()
        assert strangers.outside == everything
    excluded = f"dpd = 3\nno-route = {line.topology.server4}/255.255.255.255\n"
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=4449, more=excluded) as server,
        Connection(line.client, words(line, server)),
        Strangers(line, server, 4) as strangers,
    ):
        assert strangers.arrives()
        assert strangers.outside == everything


def test_a_second_tunnel_to_the_same_server_is_carried_beside_the_first_and_not_in_it(line: Line) -> None:
    second = words(line, line.server, "--script", "none", tunnel="vpn1")
    with Connection(line.client, words(line, line.server)), Leaks(line) as leaks:
        assert leaks.flows()
        with Connection(line.client, second) as connection:
            assert f"outer {line.topology.client4}:" in connection.output
        with Connection(line.client, [word.replace("vpn1", "vpn2") for word in second]) as connection:
            assert f"outer {line.topology.client4}:" in connection.output


def test_where_the_kernel_drops_what_has_another_way_back_the_tunnel_works_and_a_line_says_what_leaves(line: Line) -> None:
    """A strict rp_filter asks for the way back without the mark."""
    line.client.sysctl(f"net.ipv4.conf.{line.device}.rp_filter", "1")
    try:
        with Connection(line.client, words(line, line.server)) as connection, Leaks(line) as leaks:
            assert leaks.flows()
            assert connection.errors == (
                f"qosctl: {line.device} drops what comes back another way than it would go (rp_filter): whatever goes to"
                f" {line.topology.server4} leaves outside of {TUNNEL} (try: sysctl net.ipv4.conf.all.rp_filter=2)\n"
            )
            line.restart_server()
            connection.wait_for("connected again over DTLS", 30)
            assert leaks.flows()
            assert leaks.seen() == []
    finally:
        line.client.sysctl(f"net.ipv4.conf.{line.device}.rp_filter", "0")


def test_the_path_to_the_server_and_the_way_out_are_those_of_the_tunnels_packets(line: Line) -> None:
    with Connection(line.client, words(line, line.server)):
        said = line.qosctl.read("path", line.topology.server4, "--dscp", "DF", "--port", "9")
        assert [hop["address"] for hop in said["hops"]] == [ROUTER[4], line.topology.server4]
        with line.client.entered():
            assert way_out(line.topology.server4) == line.device
