"""What a server may say once the tunnel is up, played by hand: requests, goodbyes, nonsense."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Collection, Iterator

import pytest
from OpenSSL import SSL
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.errors import QosctlError
from qosctl.dtls.anyconnect.frames import encode_cstp, encode_dtls
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.numbering.snapshot import Snapshot
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.session.dpd_payload import DpdPayload
from qosctl.dtls.session.session_stats import State
from qosctl.dtls.session.tls_control import SessionEndedError
from qosctl.dtls.transport.certificate_check import Pin
from qosctl.dtls.transport.tls_channel import ConnectionLostError
from qosctl.dtls.vpn.credentials import PasswordLogin
from qosctl.dtls.vpn.frames import FrameError, FrameKind

from tests.dtls.tunnel import Tunnel
from tests.lab import Ocserv, Topology
from tests.lab.scripted_server import ScriptedServer

_HEADER = bytes.fromhex("4500001c0001000040010000") + bytes([192, 168, 78, 1, 192, 168, 78, 2])
_ICMP_ECHO = bytes.fromhex("0800f7ff00000000")


def with_checksum(packet: bytes) -> bytes:
    """Fill in the checksum of an IPv4 header of 20 bytes (RFC 1071)."""
    total = sum(int.from_bytes(packet[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:10] + (~(total + (total >> 16)) & 0xFFFF).to_bytes(2) + packet[12:]


ECHO_REQUEST = with_checksum(_HEADER + _ICMP_ECHO)


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def identity(lab: Topology) -> Iterator[Ocserv]:
    """A certificate and its key; the ocserv that comes with it has nothing to do."""
    with Ocserv(lab.server, [lab.server4]) as server:
        yield server


@pytest.fixture
def server(lab: Topology, identity: Ocserv) -> Iterator[ScriptedServer]:
    with ScriptedServer(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server:
        yield server


def options(lab: Topology, server: ScriptedServer, identity: Ocserv) -> ConnectOptions:
    return ConnectOptions(
        f"https://{lab.server4}:{server.port}",
        PasswordLogin("alice", str),
        Pin.parse(identity.pin),
        tunnel_name="vpn0",
        reconnect_s=0,
    )


@pytest.fixture
def tunnel(lab: Topology, server: ScriptedServer, identity: Ocserv) -> Iterator[Tunnel]:
    with Tunnel(lab.client, options(lab, server, identity)) as tunnel:
        server.wait_until_ready()
        yield tunnel


def ended(tunnel: Tunnel) -> QosctlError:
    tunnel.join()
    assert isinstance(tunnel.error, QosctlError)
    return tunnel.error


def receive(server: ScriptedServer, kind: FrameKind) -> bytes:
    """Return the payload of the next DTLS frame of a kind: the device says things of its own in between."""
    while (plaintext := server.receive_dtls())[:1] != encode_dtls(kind):
        pass
    return plaintext[1:]


def test_a_server_that_wants_another_handshake_is_told_no_and_what_it_makes_of_that_is_said(
    lab: Topology, identity: Ocserv
) -> None:
    """OpenSSL began one, and the next frame that was to leave met its WantReadError, which ended the session."""
    key = identity.folder / "key.pem"
    with (
        ScriptedServer(lab.server, lab.server4, identity.ca, key, newest=SSL.TLS1_2_VERSION) as server,
        Tunnel(lab.client, options(lab, server, identity)) as tunnel,
    ):
        server.wait_until_ready()
        server.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            server.receive_tls()
        error = ended(tunnel)
    assert isinstance(error, ConnectionLostError)  # as when a connection breaks: the client connects again
    assert "the server wants to negotiate TLS anew" in str(error)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(1200)])
def test_requests_are_answered_on_the_channel_they_came_on(tunnel: Tunnel, server: ScriptedServer, payload: bytes) -> None:
    server.send_tls(encode_cstp(FrameKind.DPD_OUT, payload))
    assert server.receive_tls() == encode_cstp(FrameKind.DPD_RESP, payload)
    server.send_dtls(encode_dtls(FrameKind.DPD_OUT, payload))
    assert receive(server, FrameKind.DPD_RESP) == payload
    assert tunnel.info.statistics().control["tls dpd_out received"] == 1


@pytest.mark.usefixtures("tunnel")
def test_two_frames_in_one_record_and_one_in_two_are_understood(server: ScriptedServer) -> None:
    frame = encode_cstp(FrameKind.DPD_OUT, b"abc")
    server.send_tls(frame + frame)
    server.send_tls(frame[:5])
    server.send_tls(frame[5:])
    for _ in range(3):  # each answer is a record of its own
        assert server.receive_tls() == encode_cstp(FrameKind.DPD_RESP, b"abc")


@pytest.mark.parametrize("channel", ["tls", "dtls"])
def test_packets_come_in_on_both_channels_and_leave_on_dtls(tunnel: Tunnel, server: ScriptedServer, channel: str) -> None:
    if channel == "tls":
        server.send_tls(encode_cstp(FrameKind.DATA, ECHO_REQUEST))
    else:
        server.send_dtls(encode_dtls(FrameKind.DATA, ECHO_REQUEST))
    while True:
        packet = receive(server, FrameKind.DATA)
        if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_ICMP:
            break
    assert packet[12:20] == ECHO_REQUEST[16:20] + ECHO_REQUEST[12:16]
    assert packet[20] == 0  # echo reply
    assert tunnel.info.statistics().received.packets == 1


def test_a_dtls_channel_that_is_closed_at_once_leaves_the_session_to_tls(
    lab: Topology, server: ScriptedServer, identity: Ocserv
) -> None:
    server.closes_dtls = True
    with Tunnel(lab.client, options(lab, server, identity)) as tunnel:
        server.wait_until_ready()
        server.send_tls(encode_cstp(FrameKind.DPD_OUT, b"abc"))
        while (record := server.receive_tls()) != encode_cstp(FrameKind.DPD_RESP, b"abc"):
            assert record, tunnel.error  # a packet: the device says things of its own in between
        assert tunnel.info.statistics().standing.state is State.TLS
        assert tunnel.info.statistics().counts.dtls_lost == 1


def test_what_is_too_large_for_dtls_does_not_pile_up_where_tls_is_full(tunnel: Tunnel, lab: Topology) -> None:
    """The server reads nothing of TLS, and DTLS works on."""
    lab.client.run(["ip", "link", "set", "vpn0", "mtu", "9000"])
    with lab.client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.168.78.1", 9))
        deadline = time.monotonic() + 30
        while not tunnel.info.statistics().dropped.get(DropReason.TLS_FULL):
            assert time.monotonic() < deadline
            for _ in range(50):
                sock.send(bytes(8000))


GOODBYES = {
    "tls_disconn_with_words": ("tls", FrameKind.DISCONN, b"\xb0maintenance\x1b[31m at ten", "maintenance [31m at ten"),
    "tls_disconn_without_words": ("tls", FrameKind.DISCONN, b"", "ended the session"),
    "tls_term": ("tls", FrameKind.TERM_SERVER, b"\x00idle timeout", "ended the session: idle timeout"),
    "tls_not_utf8": ("tls", FrameKind.DISCONN, b"\xb0\xff\xfe", "ended the session"),
    "dtls_disconn": ("dtls", FrameKind.DISCONN, b"\xb0over", "ended the session: over"),
}


@pytest.mark.parametrize("case", GOODBYES.values(), ids=GOODBYES)
def test_a_goodbye_of_the_server_ends_the_session_with_its_words(
    tunnel: Tunnel, server: ScriptedServer, case: tuple[str, FrameKind, bytes, str]
) -> None:
    channel, kind, payload, words = case
    if channel == "tls":
        server.send_tls(encode_cstp(kind, payload))
    else:
        server.send_dtls(encode_dtls(kind, payload))
    error = ended(tunnel)
    assert isinstance(error, SessionEndedError)
    assert words in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("nonsense", [b"GARBAGE!", b"STF\x02\0\0\0\0", b"STF\x01\0\0\0\x01", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_tls_channel_out_of_step_ends_the_session(tunnel: Tunnel, server: ScriptedServer, nonsense: bytes) -> None:
    server.send_tls(nonsense)
    assert isinstance(ended(tunnel), FrameError)


def test_a_server_that_hangs_up_ends_the_session(tunnel: Tunnel, server: ScriptedServer) -> None:
    server._socket.shutdown(socket.SHUT_RDWR)
    assert isinstance(ended(tunnel), ConnectionLostError)


def test_unknown_empty_and_compressed_frames_are_counted_and_passed_over(tunnel: Tunnel, server: ScriptedServer) -> None:
    for plaintext in (b"\x2a", b"\x2abc", b"", encode_dtls(FrameKind.COMPRESSED, b"zip"), encode_dtls(FrameKind.KEEPALIVE)):
        if plaintext:  # OpenSSL sends no empty record
            server.send_dtls(plaintext)
    server.send_tls(encode_cstp(FrameKind.COMPRESSED, b"zip"))
    server.send_tls(encode_cstp(FrameKind.KEEPALIVE))
    server.send_dtls(encode_dtls(FrameKind.DATA))
    server.send_dtls(encode_dtls(FrameKind.DATA, b"\xffno packet"))
    counts = tunnel.wait_for(lambda counts: sum(counts.dropped.values()) >= 6)
    assert counts.dropped == {DropReason.UNKNOWN_FRAME: 2, DropReason.COMPRESSED: 2, DropReason.TUN_REFUSED: 2}
    server.send_dtls(encode_dtls(FrameKind.DPD_OUT, b"alive"))
    assert receive(server, FrameKind.DPD_RESP) == b"alive"


def test_a_stop_says_goodbye_on_both_channels(tunnel: Tunnel, server: ScriptedServer) -> None:
    tunnel.end()
    assert server.receive_tls() == encode_cstp(FrameKind.DISCONN, b"\xb0user disconnect")
    assert server.receive_tls() == b""
    while server.receive_dtls():
        pass
    assert tunnel.error is None


class Curious(PlainNumbering):
    """A numbering that wants three probes of EF, one after the other's echo, and remembers what it was told."""

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.taken: list[tuple[Dscp, int]] = []
        self.log: list[str] = []
        self.wanted = 1

    def take(self, dscp: Dscp, count: int, now: float) -> range:
        numbers = super().take(dscp, count, now)
        self.taken += [(dscp, number) for number in numbers]
        return numbers

    def waits(self, now: float) -> bool:
        return now <= 0

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:
        del present
        return EF if self.wanted and now > 0 else None

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        self.wanted = 0
        self.log.append(f"sent {dscp} {now > 0}")
        return 2**64 - 1 if len(self.log) == 1 else len(self.log)

    def probe_echoed(self, probe: int, now: float) -> None:
        self.log.append(f"echoed {probe} {now > 0}")
        self.wanted = int(len(self.log) < 6)

    def snapshot(self, now: float) -> Snapshot:
        del now
        return Snapshot("plain", None, {}, len(self.log), 0, 0, 0, 0, 0)


def test_a_curious_numbering_gets_its_probes_out_and_their_echoes_back(
    lab: Topology, server: ScriptedServer, identity: Ocserv
) -> None:
    made: list[Curious] = []

    def numbering(first: int) -> Curious:
        made.append(Curious(first))
        return made[0]

    with Tunnel(lab.client, dataclasses.replace(options(lab, server, identity), numbering=numbering)):
        server.wait_until_ready()
        for expected in (2**64 - 1, 3, 5):
            while len(payload := receive(server, FrameKind.DPD_OUT)) != DpdPayload.RECEIVER_POSITION.value:
                pass  # one that asks how much the path takes
            assert payload == expected.to_bytes(8)
            server.send_dtls(encode_dtls(FrameKind.DPD_RESP, payload))
        server.send_dtls(encode_dtls(FrameKind.DPD_OUT, b"last"))
        assert receive(server, FrameKind.DPD_RESP) == b"last"
    assert made[0].log == [
        "sent EF True", "echoed 18446744073709551615 True",
        "sent EF True", "echoed 3 True",
        "sent EF True", "echoed 5 True",
    ]  # fmt: skip
    assert sum(dscp is EF for dscp, _ in made[0].taken) == 3
