"""Truncated, forged, replayed and unasked-for datagrams in the server's name: a live tunnel goes on.

They come from a raw socket on the router, under the server's address and port, as from anyone on the path.
"""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, Record, Wiretap

VERSION = b"\xfe\xfd"
EPOCH_1 = 1 << 48
AHEAD = 2000  # of the server's numbers, within the client's replay window
FRAGMENT_BYTES = 1480  # what a wire of 1500 bytes leaves
FATAL_BAD_MAC, CLOSE_NOTIFY = b"\x02\x14", b"\x01\x00"


@pytest.fixture(scope="module")
def tap(line: Line) -> Iterator[Wiretap]:
    with Wiretap(line) as made:
        yield made


@pytest.fixture(scope="module")
def connection(line: Line, tap: Wiretap) -> Iterator[Connection]:
    """One tunnel for all that is thrown at it."""
    del tap  # is to see the handshake
    with line.connected() as made:
        yield made


def _record(content_type: int, number: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return bytes([content_type]) + VERSION + number.to_bytes(8) + size.to_bytes(2) + body


def _from_server(tap: Wiretap, inside: Inside, word: bytes) -> Record:
    """Let the server send `word` through the tunnel and return the record that carried it."""
    tap.forget()
    inside.send(b"ask")
    inside.answer(word)
    assert inside.answered(1) == [word]

    def carrying() -> list[Record]:
        return [r for r in tap.received() if r.inner is not None and r.inner.payload == word]

    (record,) = tap.wait_for(carrying, bool)  # the capture may be read after the packet has arrived
    return record


class _Server:
    """Sends UDP from the router in the server's name to the client's end of the tunnel."""

    def __init__(self, line: Line, client_port: int) -> None:
        self._ends = line.topology.server4, line.topology.client4
        self._ports = line.server.port, client_port
        self.client_port = client_port
        self._identification = 0
        with line.router.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(self, datagram: bytes) -> None:
        udp = struct.pack("!4H", *self._ports, 8 + len(datagram), 0) + datagram  # checksum 0: none
        self._send(17, udp)

    def send_port_unreachable(self) -> None:
        """Let an ICMP message say of a datagram of the client that nobody listens."""
        source, destination = self._ends
        inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 100, 1, 0, 64, 17, 0, _packed(destination), _packed(source))
        body = inner + struct.pack("!4H", self._ports[1], self._ports[0], 80, 0)
        message = struct.pack("!BBHI", 3, 3, 0, 0) + body
        message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
        self._send(1, message)

    def close(self) -> None:
        self._socket.close()

    def _send(self, protocol: int, body: bytes) -> None:
        """Send it in as many fragments as it takes. The kernel fills in the checksum."""
        ends = [_packed(end) for end in self._ends]
        self._identification += 1
        for start in range(0, len(body), FRAGMENT_BYTES):
            part = body[start : start + FRAGMENT_BYTES]
            more = start + len(part) < len(body)
            where = more << 13 | start // 8
            header = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), self._identification, where, 64, protocol, 0, *ends
            )
            self._socket.sendto(header + part, (self._ends[1], 0))


def _packed(address: str) -> bytes:
    return socket.inet_aton(address)


def _checksum(message: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


@pytest.fixture(scope="module")
def impostor(line: Line, connection: Connection) -> Iterator[_Server]:
    (flow,) = [f for f in line.qosctl.read("flows")["flows"] if f["owner"]["pid"] == connection.process.pid]
    with contextlib.closing(_Server(line, flow["local"]["port"])) as made:
        yield made


_random = random.Random(20)
HOSTILE = {
    "empty": [b""],
    "one byte of every value": [bytes([value]) for value in range(256)],
    "a header cut at every length": [_record(DATA, EPOCH_1 | 1 << 40, b"")[:cut] for cut in range(1, 13)],
    "a record cut within its body": [_record(DATA, EPOCH_1 | 2 << 40, bytes(cut), length=100) for cut in range(100)],
    "too short for nonce and tag": [_record(DATA, EPOCH_1 | 3 << 40, bytes(size)) for size in range(25)],
    "length 65535": [_record(DATA, EPOCH_1 | 4 << 40, bytes(40), length=0xFFFF)],
    "longer than a record may be": [_record(DATA, EPOCH_1 | 5 << 40, bytes(1 << 14) + bytes(200))],
    "made up, at the highest number": [_record(DATA, EPOCH_1 | (1 << 48) - 1, bytes(80))] * 3,
    "made up alerts": [_record(ALERT, EPOCH_1 | 6 << 40, bytes(26))] * 3,
    "alerts without a cipher": [_record(ALERT, 90 + n, alert) for n, alert in enumerate((FATAL_BAD_MAC, CLOSE_NOTIFY))],
    "a new cipher": [_record(CHANGE_CIPHER_SPEC, 95, b"\x01")],
    "HelloRequest, without a cipher": [_record(HANDSHAKE, 96, bytes(12))],
    "HelloVerifyRequest": [_record(HANDSHAKE, 97, b"\x03" + bytes(11) + VERSION + b"\x04abcd")],
    "of a later epoch": [_record(DATA, 2 << 48 | 1, bytes(80)), _record(DATA, 0xFFFF << 48, bytes(80))],
    "of another version": [b"\x17" + v + bytes(10) for v in (b"\xfe\xff", b"\x03\x03", b"\xfe\xfc", b"\0\0")],
    "DTLS 1.3 and connection id": [b"\x2f" + bytes(60), _record(25, EPOCH_1 | 7 << 40, bytes(60))],
    "many in one datagram": [_record(DATA, EPOCH_1 | 8 << 40, bytes(30)) * 20 + b"\x17"],
    "noise": [_random.randbytes(_random.randrange(1400)) for _ in range(200)],
    "noise behind a good header": [
        _record(_random.choice((20, 21, 22, 23, 24)), _random.getrandbits(64), _random.randbytes(_random.randrange(200)))
        for _ in range(200)
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_tunnel_goes_on_after(name: str, connection: Connection, impostor: _Server, inside: Inside) -> None:
    for datagram in HOSTILE[name]:
        impostor.send(datagram)
    assert inside.works_both_ways(name.encode())
    assert connection.process.poll() is None
    assert connection.errors == ""


def test_a_record_with_any_bit_turned_is_not_delivered(tap: Wiretap, impostor: _Server, inside: Inside) -> None:
    seen = _from_server(tap, inside, b"genuine")
    # Ahead of the server's own numbers, and never seen: only its seal speaks against a copy with a bit turned.
    genuine = tap.sealed_by_server(impostor.client_port, seen.number + AHEAD, seen.plaintext)
    for bit in range(8 * len(genuine)):
        turned = bytearray(genuine)
        turned[bit // 8] ^= 1 << bit % 8
        impostor.send(bytes(turned))
    impostor.send(genuine)
    # In order behind them: had one been delivered, or the genuine one twice, they would come out first.
    inside.send(b"ask")
    inside.answer(b"after them")
    assert inside.answered(3, timeout=0.5) == [b"genuine", b"after them"]


def test_a_replayed_record_is_delivered_once(tap: Wiretap, impostor: _Server, inside: Inside) -> None:
    record = _from_server(tap, inside, b"just once")
    for _ in range(5):
        impostor.send(record.frame.payload)
    inside.send(b"ask")
    inside.answer(b"next")
    assert inside.answered(2, timeout=0.5) == [b"next"]


def test_what_the_client_sent_comes_back_to_it_in_vain(tap: Wiretap, impostor: _Server, inside: Inside) -> None:
    tap.forget()
    inside.send(b"ask")
    inside.answer(b"before")
    assert inside.answered(1) == [b"before"]
    for frame in [frame for frame in tap.frames() if frame.source_port == impostor.client_port]:
        impostor.send(frame.payload)
    assert inside.works_both_ways(b"reflected")


def test_answers_of_the_path_do_not_end_it(connection: Connection, impostor: _Server, inside: Inside) -> None:
    for _ in range(10):
        impostor.send_port_unreachable()
    assert inside.works_both_ways(b"after port unreachable")
    assert connection.process.poll() is None
