"""The client against a real ocserv, through a router:

client (tun) === 10.91.1.2 --- router --- 10.91.2.2 === server (vpns): 192.168.77.1, fd77::1
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qosctl.bpf.abi import RING_WORDS
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import NotAttachedError
from qosctl.bpf.flow_page.rtt_request import REQUEST_WORDS, RttRequestWords
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.session.marker import FlowMemory
from qosctl.dtls.session.tls_control import SilentError
from qosctl.dtls.transport.certificate_check import Authorities, Pin
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin

from tests.dtls.tunnel import Tunnel
from tests.lab import Capture, Frame, Namespace, Ocserv, Topology
from tests.lab.openconnect import cookie_of

Connect = Callable[..., Tunnel]
ROOT = Path(__file__).parent.parent.parent
DPD_S = 1


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def server(lab: Topology) -> Iterator[Ocserv]:
    with Ocserv(lab.server, [lab.server4, lab.server6], more=f"dpd = {DPD_S}\n") as server:
        yield server


def options_for(lab: Topology, server: Ocserv, family: int = 4, **changes: object) -> ConnectOptions:
    host = lab.server4 if family == 4 else f"[{lab.server6}]"
    options = ConnectOptions(
        f"https://{host}:{server.port}",
        PasswordLogin("alice", lambda: server.users["alice"]),
        Authorities.read(str(server.ca)),
        tunnel_name="vpn0",
        timeout_s=20,
    )
    return dataclasses.replace(options, **changes)  # type: ignore[arg-type]  # the test names fields that exist


def ping(namespace: Namespace, address: str, *more: str) -> None:
    namespace.run(["ping", "-c", "2", "-i", "0.05", "-W", "5", *more, address])


def links(namespace: Namespace) -> str:
    return namespace.run(["ip", "-br", "link"]).stdout


def route6(lab: Topology) -> None:
    """The server gives one IPv6 address, not a network: reaching its own end takes a route."""
    lab.client.run(["ip", "-6", "route", "add", "fd77::/64", "dev", "vpn0"])


@pytest.mark.parametrize("outer", [4, 6])
def test_a_login_by_password_carries_packets_both_ways(lab: Topology, server: Ocserv, outer: int) -> None:
    with Tunnel(lab.client, options_for(lab, server, outer)) as tunnel:
        route6(lab)
        ping(lab.client, server.inner4)
        ping(lab.client, server.inner6)
        ping(lab.server, tunnel.address4)
        ping(lab.server, tunnel.address6)
        info = tunnel.info
        assert info.tunnel == "vpn0"
        assert info.remote == (lab.server_address(outer), server.port)
        assert info.local[0] == (lab.client4 if outer == 4 else lab.client6)
        assert info.dtls == "PSK-AES256-GCM-SHA384"
        assert info.server.startswith("ocserv")
        assert info.mtu == 1500 - (20 if outer == 4 else 40) - 8 - 37 - 1
        assert not info.marked
        statistics = tunnel.wait_for(lambda counts: counts.received.packets >= 8)
        assert statistics.sent.packets >= 8
        assert not statistics.dropped
    assert tunnel.error is None
    assert tunnel.final is not None


@pytest.mark.parametrize("outer", [4, 6])
def test_the_largest_packet_fits_and_the_next_is_too_big(lab: Topology, server: Ocserv, outer: int) -> None:
    with (
        Tunnel(lab.client, options_for(lab, server, outer)) as tunnel,
        Capture(lab.client, lab.client_if, lambda frame: frame.destination_port == server.port) as wire,
    ):
        most = tunnel.info.mtu - 28
        ping(lab.client, server.inner4, "-M", "do", "-s", str(most))
        assert lab.client.run(["ping", "-c1", "-M", "do", "-s", str(most + 1), server.inner4], check=False).returncode
        largest = max(len(frame.payload) for frame in wire.wait_for(bool) if frame.protocol == socket.IPPROTO_UDP)
        assert largest == 1500 - (20 if outer == 4 else 40) - 8


def test_packets_travel_in_dtls_and_not_in_tls(lab: Topology, server: Ocserv) -> None:
    def tunnel_frames(frame: Frame) -> bool:
        return server.port in (frame.source_port, frame.destination_port)

    with (
        Tunnel(lab.client, options_for(lab, server)) as tunnel,
        Capture(lab.client, lab.client_if, tunnel_frames) as wire,
    ):
        ping(lab.client, server.inner4, "-s", "1000")
        frames = wire.wait_for(lambda frames: sum(len(frame.payload) > 1000 for frame in frames) >= 4)
        assert {frame.protocol for frame in frames if len(frame.payload) > 1000} == {socket.IPPROTO_UDP}
        records = [frame for frame in frames if len(frame.payload) > 1000 and frame.outgoing]
        assert all(frame.payload.startswith(b"\x17\xfe\xfd\x00\x01") for frame in records)
        assert {frame.source_port for frame in records} == {tunnel.info.local[1]}


@pytest.mark.parametrize("priorities", ["NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.3:+VERS-DTLS1.2"])
def test_the_key_comes_out_of_both_versions_of_tls(lab: Topology, priorities: str) -> None:
    with (
        Ocserv(lab.server, [lab.server4], port=4444, more=f'tls-priorities = "{priorities}"\n') as server,
        Tunnel(lab.client, options_for(lab, server)) as tunnel,
    ):
        assert tunnel.info.tls.startswith("TLSv1.2" if "-VERS-TLS1.3" in priorities else "TLSv1.3")
        ping(lab.client, server.inner4)


@pytest.mark.parametrize("suite", ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"])
def test_every_cipher_we_offer_carries_packets(lab: Topology, suite: str) -> None:
    others = {"AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"} - {suite}
    priorities = "NORMAL:" + ":".join(f"-{other}" for other in sorted(others))
    with (
        Ocserv(lab.server, [lab.server4], port=4444, more=f'tls-priorities = "{priorities}"\n') as server,
        Tunnel(lab.client, options_for(lab, server)) as tunnel,
    ):
        assert suite.replace("AES-", "AES") in tunnel.info.dtls
        ping(lab.client, server.inner4, "-s", "1000")
        assert not tunnel.info.statistics().dropped


def test_a_cookie_from_openconnect_is_enough_and_a_goodbye_spends_it(lab: Topology, server: Ocserv) -> None:
    cookie = CookieLogin.parse(cookie_of(lab.client, server, lab.server4), "webvpn")
    options = options_for(lab, server, credentials=cookie, trust=Pin.parse(server.pin))
    with Tunnel(lab.client, options):
        ping(lab.client, server.inner4)
    with pytest.raises(Exception, match=r"does not know the cookie any more \(try: log in again\)"):
        Tunnel(lab.client, options).__enter__()


def test_a_goodbye_leaves_no_device_and_ends_the_session_at_once(lab: Topology, server: Ocserv) -> None:
    with (
        Tunnel(lab.client, options_for(lab, server)) as tunnel,
        Capture(lab.client, lab.client_if, lambda frame: frame.destination_port == server.port) as wire,
    ):
        ping(lab.client, server.inner4)
        assert "vpn0" in links(lab.client)
        tunnel.end()
        assert "vpn0" not in links(lab.client)
        wire.wait_for(lambda frames: any(frame.payload.startswith(b"\x15\xfe\xfd\x00\x01") for frame in frames))
        deadline = time.monotonic() + 10
        while "vpns" in links(lab.server):
            assert time.monotonic() < deadline, links(lab.server)
            time.sleep(0.02)


def test_both_channels_are_asked_and_answer_for_longer_than_the_server_bears_silence(lab: Topology, server: Ocserv) -> None:
    """The server ends a session whose TLS channel is silent for three times its DPD: five rounds are more than that."""
    with Tunnel(lab.client, options_for(lab, server)) as tunnel:
        statistics = tunnel.wait_for(
            lambda counts: all(counts.control.get(f"{channel} dpd_resp received", 0) >= 5 for channel in ("tls", "dtls"))
        )
        assert statistics.dpd_round_trip_s is not None
        assert 0 < statistics.dpd_round_trip_s < 20
        ping(lab.client, server.inner4)


def test_forged_and_truncated_datagrams_are_counted_and_nothing_else(lab: Topology, server: Ocserv) -> None:
    with Tunnel(lab.client, options_for(lab, server)) as tunnel:
        record = bytes.fromhex("17fefd0001000000001000") + (40).to_bytes(2)
        junk = {
            DropReason.FORGED: record + bytes(40),
            DropReason.TRUNCATED: record + bytes(39),
            DropReason.MALFORMED: b"\x16\x03\x03" + bytes(40),
            DropReason.WRONG_EPOCH: bytes.fromhex("17fefd0000000000001000") + (40).to_bytes(2) + bytes(40),
            DropReason.BAD_LENGTH: record[:-2] + (3).to_bytes(2) + bytes(40),
        }
        with lab.server.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        with sender:
            for datagram in [*junk.values(), b"", b"\x17"]:
                header = b"".join(
                    number.to_bytes(2) for number in (server.port, tunnel.info.local[1], 8 + len(datagram), 0)
                )
                sender.sendto(header + datagram, (lab.client4, 0))
        statistics = tunnel.wait_for(lambda counts: counts.dropped.get(DropReason.TRUNCATED, 0) >= 2)
        assert set(statistics.dropped) == set(junk)
        ping(lab.client, server.inner4)


def test_a_full_socket_holds_packets_back_and_goes_on(lab: Topology, server: Ocserv) -> None:
    """A slow link with a queue larger than the socket: the loop has to wait for room, and must not lose its place."""
    shaper = ["root", "tbf", "rate", "20mbit", "burst", "20k", "limit", "100mb"]
    with Tunnel(lab.client, options_for(lab, server)) as tunnel:
        lab.client.run(["tc", "qdisc", "add", "dev", lab.client_if, *shaper])
        try:
            with lab.client.entered():
                source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with source:
                source.connect((server.inner4, 9))
                deadline = time.monotonic() + 30
                while not tunnel.info.statistics().socket_full:
                    assert time.monotonic() < deadline
                    for _ in range(100):
                        with contextlib.suppress(ConnectionRefusedError):  # nobody listens there, and says so
                            source.send(bytes(1200))
        finally:
            lab.client.run(["tc", "qdisc", "del", "dev", lab.client_if, "root"])
        ping(lab.client, server.inner4)
        assert tunnel.error is None


class RecordingMarker:
    """A marker without a kernel behind it: the ring is plain memory, and calls are noted.

    With `late` there is no ring before `comes` is called.
    """

    def __init__(self, *, possible: bool = True, late: bool = False) -> None:
        self.ring = memoryview(bytearray(8 * RING_WORDS)).cast("Q") if possible else None
        self.waiting = late
        self.calls: list[tuple[object, ...]] = []

    def comes(self) -> None:
        self.waiting = False

    def flow_opened(self, outer: int, tunnel: str) -> None:
        with socket.socket(fileno=os.dup(outer)) as asked:
            self.calls.append((asked.getsockname(), asked.getpeername(), tunnel))

    def memory(self) -> FlowMemory | None:
        requests = RttRequestWords(memoryview(bytearray(8 * REQUEST_WORDS)).cast("Q"))
        return None if self.ring is None or self.waiting else FlowMemory(self.ring, requests)

    def flow_closed(self) -> None:
        self.calls.append(())

    def passtos(self) -> bool:
        return False


def test_the_marker_learns_of_the_flow_and_gets_the_class_of_each_record(lab: Topology, server: Ocserv) -> None:
    marker = RecordingMarker()
    with Tunnel(lab.client, options_for(lab, server), marker=marker) as tunnel:
        assert marker.calls == [(tunnel.info.local, tunnel.info.remote, "vpn0")]
        assert tunnel.info.marked
        ping(lab.client, server.inner4, "-Q", "0xb8")
    assert marker.ring is not None
    classes = {Dscp.of(word & 0xFF) for word in marker.ring if word}
    assert Dscp.parse("EF") in classes
    assert marker.calls[1:] == [()]


def test_a_marker_that_cannot_mark_leaves_a_working_tunnel(lab: Topology, server: Ocserv) -> None:
    marker = RecordingMarker(possible=False)
    with Tunnel(lab.client, options_for(lab, server), marker=marker) as tunnel:
        assert not tunnel.info.marked
        ping(lab.client, server.inner4)
    assert len(marker.calls) == 2


def test_packets_do_not_wait_for_a_ring_that_comes_late(lab: Topology, server: Ocserv) -> None:
    marker = RecordingMarker(late=True)
    with Tunnel(lab.client, options_for(lab, server), marker=marker) as tunnel:
        assert not tunnel.info.marked
        assert tunnel.info.dtls
        ping(lab.client, server.inner4, "-Q", "0xb8")
        assert marker.ring is not None
        assert not any(marker.ring)
        marker.comes()
        deadline = time.monotonic() + 10
        while not any(marker.ring):
            assert time.monotonic() < deadline
            ping(lab.client, server.inner4, "-Q", "0xb8")
    assert Dscp.parse("EF") in {Dscp.of(word & 0xFF) for word in marker.ring if word}


def test_the_end_of_the_server_is_the_end_of_the_session(lab: Topology) -> None:
    marker = RecordingMarker()
    with Ocserv(lab.server, [lab.server4], port=4444) as server:
        tunnel = Tunnel(lab.client, options_for(lab, server, reconnect_s=0), marker=marker)
        with tunnel:
            ping(lab.client, server.inner4)
            server.stop()
            tunnel.join()
    assert isinstance(tunnel.error, NotAttachedError)
    assert "vpn0" not in links(lab.client)
    assert marker.calls[1:] == [()]


def test_a_path_that_goes_silent_ends_the_session_by_dead_peer_detection(lab: Topology, server: Ocserv) -> None:
    with Tunnel(lab.client, options_for(lab, server, reconnect_s=0)) as tunnel:
        ping(lab.client, server.inner4)
        lab.router.run(["ip", "link", "set", "dev", lab.router_client_if, "down"])
        try:
            tunnel.join()
        finally:
            lab.router.run(["ip", "link", "set", "dev", lab.router_client_if, "up"])
            lab.router.run(["ip", "addr", "replace", "fd91:1::1/64", "dev", lab.router_client_if, "nodad"])
    assert isinstance(tunnel.error, SilentError)
    assert "stopped answering" in str(tunnel.error)


def test_a_device_removed_by_someone_else_ends_the_session(lab: Topology, server: Ocserv) -> None:
    with Tunnel(lab.client, options_for(lab, server)) as tunnel:
        lab.client.run(["ip", "link", "del", "vpn0"])
        tunnel.join()
    assert isinstance(tunnel.error, NotAttachedError)
    assert str(tunnel.error).startswith("vpn0: the device is gone")


PROGRAM = """
import signal, sys
from pathlib import Path
from qosctl.dtls.client import connect
from qosctl.dtls.vpn.credentials import PasswordLogin
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.certificate_check import Pin

url, pin, password = sys.argv[1:]
stop = Stop()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.request())
login = PasswordLogin("alice", lambda: Path(password).read_text().rstrip())
options = ConnectOptions(url, login, Pin.parse(pin), tunnel_name="vpn0")
print(connect(options, stop, on_connected=lambda info: print("up", flush=True)).sent.packets, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_clean_goodbye_of_a_small_process(lab: Topology, server: Ocserv, number: signal.Signals) -> None:
    arguments = f"https://{lab.server4}:{server.port}", server.pin, str(server.password_file("alice"))
    process = lab.client.popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    ping(lab.client, server.inner4)
    status = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) < 80_000  # kB; 50,000 when this was written
    assert status["Threads"] == "1"
    process.send_signal(number)
    assert process.wait(10) == 0
    assert int(process.stdout.readline()) >= 2
    assert "vpn0" not in links(lab.client)
