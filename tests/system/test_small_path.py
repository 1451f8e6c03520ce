"""IPv6 inside a tunnel whose path is too small for it: 1280 bytes must pass (RFC 8200 section 5), so TLS carries them."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import Namespace, Ocserv
from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.flowing import Row, note

ROUTER = "10.91.1.1"
SMALL = 1300  # with 1280 inside, a record over IPv4 makes 1346
OCSERV = "dpd = 5\n"
TRANSFER_BYTES = 200_000
_ECHO = 40 + 8  # headers of an IPv6 echo request
WORDS = "the path is too small for IPv6 over UDP: packets go over TLS, unmarked"


def _pings(namespace: Namespace, address: str, packet_bytes: int) -> bool:
    words = ["ping", "-c", "1", "-W", "1", "-s", str(packet_bytes - _ECHO), address]
    return namespace.run(words, check=False).returncode == 0


def _state(line: Line) -> int:
    """2 DTLS, 1 TLS, 0 neither, or one flow taking the place of another."""
    flows = json.loads(line.qosctl("flows", "--json", check=False).stdout)["flows"]
    return max((int(flow["statistics"]["state"]) for flow in flows), default=0)


def _own_address(line: Line) -> str:
    words = line.client.run(["ip", "-6", "-o", "addr", "show", "dev", TUNNEL, "scope", "global"]).stdout.split()
    return next((str(word.partition("/")[0]) for word in words if word.startswith("fd77:")), "")


def _statistics(line: Line) -> dict[str, int]:
    return line.qosctl.statistics()


def _received(line: Line, address: str) -> int:
    """Let the server's end send over TCP to ours; return how many bytes came."""
    with line.client.entered():
        listener = socket.create_server((address, 0), family=socket.AF_INET6)
    with line.server_namespace.entered():
        near = socket.create_connection(listener.getsockname()[:2], timeout=20)
    with listener, near, listener.accept()[0] as far:
        far.settimeout(20)
        sender = threading.Thread(target=near.sendall, args=(bytes(TRANSFER_BYTES),))
        sender.start()
        size = 0
        while size < TRANSFER_BYTES:
            size += len(far.recv(65536))
        sender.join()
    return size


@contextlib.contextmanager
def shrunk(line: Line) -> Iterator[None]:
    """Make the wire between router and server take SMALL bytes, as both of its ends know."""
    ends = ((line.router, line.topology.router_server_if), (line.server_namespace, line.topology.server_if))
    for namespace, device in ends:
        namespace.run(["ip", "link", "set", "dev", device, "mtu", str(SMALL)])  # above 1280: it takes IPv6
    try:
        yield
    finally:
        for namespace, device in ends:
            namespace.run(["ip", "link", "set", "dev", device, "mtu", "1500"])


@contextlib.contextmanager
def swallowing(line: Line, *, all_protocols: bool) -> Iterator[None]:
    """Let the router drop what is larger than SMALL bytes, without a word."""
    what = "" if all_protocols else "meta l4proto udp "
    rules = f"{what}meta length > {SMALL} drop"
    with line.topology.dropping(rules):
        yield


@contextlib.contextmanager
def _another_source(line: Line) -> Iterator[None]:
    """Let packets to the router leave from another address; the one before works on."""
    other = "10.91.1.77"
    line.client.run(["ip", "addr", "add", f"{other}/24", "dev", line.device])
    line.client.run(["ip", "route", "add", ROUTER, "dev", line.device, "src", other])
    try:
        yield
    finally:
        line.client.run(["ip", "route", "del", ROUTER])
        line.client.run(["ip", "addr", "del", f"{other}/24", "dev", line.device])


def test_a_path_that_swallows_what_ipv6_must_send_leaves_it_to_tls(line: Line) -> None:
    """Both ways, packets of every size, and connections from before: nothing ends in a black hole."""
    with (
        Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=1) as relay,
        line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL) as connection,
    ):
        line.client.run(["ip", "route", "add", "fd77::/64", "dev", TUNNEL])
        own = _own_address(line)
        assert _pings(line.client, Ocserv.inner6, 1280)
        relay.set(largest=SMALL)
        began = time.monotonic()
        while WORDS not in connection.errors:
            _pings(line.client, Ocserv.inner6, 1280)
            assert time.monotonic() < began + 60
        until(lambda: _pings(line.client, Ocserv.inner6, 1280) and _pings(line.server_namespace, own, 1280), 60)
        seconds = time.monotonic() - began
        assert _statistics(line)["state"] == 1
        assert _own_address(line) == own
        assert _received(line, own) == TRANSFER_BYTES
        assert all(_pings(line.server_namespace, own, size) for size in (100, 1000, 1235, 1280, 1400))
        for change in ("add", "del", "add", "del"):  # news that change no way to the server
            line.client.run(["ip", "addr", change, "198.51.100.1/32", "dev", "lo"])
            time.sleep(1)  # for longer than DTLS is tried again after
            assert _statistics(line)["state"] == 1
        assert connection.errors.count(WORDS) == 1
        assert _pings(line.server_namespace, own, 1280)
        relay.set(largest=65535)
        with _another_source(line):
            until(lambda: _statistics(line)["state"] == 2, 60)
            assert _pings(line.server_namespace, own, 1280)
    note(Row("path swallows what IPv6 must be able to send", "the path is too small for IPv6 over UDP: packets go over TLS",
             "the first large packet", seconds, None, None))  # fmt: skip


@pytest.mark.parametrize("outer", [4, 6])
def test_a_path_that_says_so_leaves_ipv6_to_tls(line: Line, outer: int) -> None:
    """The server hears it, too, and ends IPv6 at its end of that session; the next one has it, over TLS."""
    with line.connected(outer) as connection:
        own = _own_address(line)
        assert _pings(line.client, Ocserv.inner6, 1280)
        with shrunk(line):
            began = time.monotonic()
            while WORDS not in connection.errors:
                _pings(line.client, Ocserv.inner6, 1400)
                assert time.monotonic() < began + 30
            until(lambda: _pings(line.client, Ocserv.inner6, 1280) and _pings(line.server_namespace, own, 1280), 60)
            seconds = time.monotonic() - began
            assert (_state(line), _own_address(line)) == (1, own)
            assert _statistics(line)["reconnects_path_mtu"] == 1
            assert _received(line, own) == TRANSFER_BYTES
            for size in (100, 1000, 1235, 1280, 1400):
                assert _pings(line.server_namespace, own, size)
                assert line.client.run(["ping", "-c", "1", "-W", "2", "-s", str(size - 28), Ocserv.inner4]).returncode == 0
            assert "carries no IPv6" not in connection.errors
    note(Row(f"path says it is too small for IPv6 (outer IPv{outer})",
             "the path is too small for IPv6 over UDP: packets go over TLS",
             "the first large packet", seconds, None, None))  # fmt: skip


def test_a_path_that_swallows_tcps_large_packets_too_still_carries_ipv6(line: Line) -> None:
    """Nobody tells TCP either: the new connection's segments are as large as the probes have shown to pass."""
    with line.connected() as connection:
        own = _own_address(line)
        with swallowing(line, all_protocols=True):
            began = time.monotonic()
            while WORDS not in connection.errors:
                _pings(line.client, Ocserv.inner6, 1400)
                assert time.monotonic() < began + 60
            until(lambda: _pings(line.client, Ocserv.inner6, 1400) and _pings(line.server_namespace, own, 1400), 60)
            assert _received(line, own) == TRANSFER_BYTES
            assert (_state(line), _own_address(line)) == (1, own)


@pytest.mark.parametrize("outer", [4, 6])
def test_a_device_that_has_no_room_for_ipv6_from_the_start(line: Line, outer: int) -> None:
    line.client.run(["ip", "link", "set", "dev", line.device, "mtu", str(SMALL)])
    try:
        with line.connected(outer) as connection:
            own = _own_address(line)
            assert WORDS in connection.errors
            assert _pings(line.client, Ocserv.inner6, 1280) and _pings(line.server_namespace, own, 1400)
            assert _state(line) == 1
    finally:
        line.client.run(["ip", "link", "set", "dev", line.device, "mtu", "1500"])


def test_a_server_without_ipv6_is_not_held_to_its_room(line: Line) -> None:
    """Asked for more than the path takes, and for nothing: DTLS carries what fits."""
    line.client.run(["ip", "link", "set", "dev", line.device, "mtu", str(SMALL)])
    try:
        with (
            Ocserv(line.server_namespace, [line.topology.server4], port=4447, ipv6=False) as server,
            line.qosctl.connect(server, line.topology.server4, "-i", TUNNEL) as connection,
        ):
            assert line.client.run(["ping", "-c", "1", "-W", "2", "-s", "1200", Ocserv.inner4]).returncode == 0
            assert (_state(line), connection.errors) == (2, "")
            assert _statistics(line)["inner_mtu"] < SMALL
    finally:
        line.client.run(["ip", "link", "set", "dev", line.device, "mtu", "1500"])
