"""The outer wire, read by somebody who has the keys: which record is in which frame, and what is inside.

Keys come from the server's key log (the master secret under its client random) and the two hellos on the wire. The
decryption is the tests' own and shares nothing with the project's.

    type (1) | version (2) | epoch, number (8) | length (2) | explicit nonce (8) | ciphertext | tag (16)
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.lab import Capture, Frame
from tests.lab.testbed import Line

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO = b"\x01", b"\x02"
_FRAME_DATA, _DPD_REQUEST, _DPD_ANSWER = 0, 3, 4
_PROBE_BYTES = 1 + 8  # an id; who asks whether the server lives has a shorter one
_UDP = 17


@dataclass(frozen=True)
class Inner:
    """An inner packet: its IP version and traffic-class byte, and what a UDP datagram in it carries."""

    version: int
    traffic_class: int
    payload: bytes

    @classmethod
    def parse(cls, packet: bytes) -> Inner:
        """Take it apart; the packets of these tests have no options and no extension headers."""
        if packet[0] >> 4 == 4:
            return cls(4, packet[1], packet[28:])
        return cls(6, (packet[0] & 0x0F) << 4 | packet[1] >> 4, packet[48:])


@dataclass(frozen=True)
class Record:
    """One DTLS record and the frame it was in. `plaintext` is as on the wire before the cipher is on."""

    frame: Frame
    content_type: int
    number: int  # epoch and sequence number, 64 bits
    plaintext: bytes

    @property
    def inner(self) -> Inner | None:
        """The inner packet, None in a record that carries none."""
        if self.content_type != DATA or self.plaintext[:1] != bytes([_FRAME_DATA]):
            return None
        return Inner.parse(self.plaintext[1:])

    @property
    def is_probe(self) -> bool:
        """Whether the numbering asks with it where a class's queue is: it stands in that queue, and must look like it."""
        return self.content_type == DATA and self.plaintext[0] == _DPD_REQUEST and len(self.plaintext) == _PROBE_BYTES

    @property
    def is_dpd(self) -> bool:
        """Whether it asks or answers whether the other end lives."""
        return self.content_type == DATA and self.plaintext[0] in (_DPD_REQUEST, _DPD_ANSWER) and not self.is_probe


@dataclass(frozen=True)
class _Keys:
    cipher: AESGCM
    iv: bytes


@dataclass
class _Handshake:
    """The randoms of both hellos, and the keys that follow from them, by whether the client seals with them."""

    client: bytes
    server: bytes = b""
    keys: dict[bool, _Keys] = field(default_factory=dict)


class Wiretap:
    """Captures between client and router from entering the block on; enter it before the tunnel's handshake."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._capture = Capture(line.router, line.topology.router_client_if)
        self._handshakes: dict[int, list[_Handshake]] = {}  # by client port, which chance may give twice; the last is first

    def __enter__(self) -> Self:
        self._capture.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.stop()

    def frames(self) -> list[Frame]:
        """Return all that came from the client, in order, tunnel or not."""
        return [frame for frame in self._capture.frames() if not frame.outgoing]

    def sent(self) -> list[Record]:
        """Return the records of the client, in order."""
        return self._records(from_client=True)

    def received(self) -> list[Record]:
        """Return the records of the server, in order."""
        return self._records(from_client=False)

    def carried(self, count: int, mark: bytes = b"") -> list[Record]:
        """Wait for `count` of the client's records with inner payloads that begin with `mark`, and return those."""

        def carrying() -> list[Record]:
            return [r for r in self.sent() if r.inner is not None and r.inner.payload.startswith(mark)]

        return self.wait_for(carrying, lambda records: len(records) >= count)

    def wait_for(
        self, look: Callable[[], list[Record]], enough: Callable[[list[Record]], bool], timeout: float = 5
    ) -> list[Record]:
        """Return what `look` finds as soon as it is `enough`, or what there is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not enough(found := look()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def sealed_by_server(self, client_port: int, number: int, plaintext: bytes) -> bytes:
        """Return a data record as the server would send it to the client at `client_port`; genuine in all ways."""
        keys = next(self._keys_of(client_port, from_client=False))
        header, nonce = bytes([DATA]) + b"\xfe\xfd" + number.to_bytes(8), number.to_bytes(8)
        aad = header[3:11] + header[:3] + len(plaintext).to_bytes(2)
        body = nonce + keys.cipher.encrypt(keys.iv + nonce, plaintext, aad)
        return header + len(body).to_bytes(2) + body

    def forget(self) -> None:
        """Forget the frames so far, but not the keys."""
        self._tunnel_frames()
        self._capture.clear()

    def _tunnel_frames(self) -> list[Frame]:
        frames = [
            frame
            for frame in self._capture.frames()
            if frame.protocol == _UDP and self._line.server.port in (frame.source_port, frame.destination_port)
        ]
        for frame in frames:
            kind, body = frame.payload[:1], frame.payload[13:]
            if kind == bytes([HANDSHAKE]) and body[:1] in (_CLIENT_HELLO, _SERVER_HELLO):
                self._note(
                    _client_port(frame), body[:1], body[14:46]
                )  # behind the handshake header (12) and the version (2)
        return frames

    def _note(self, port: int, hello: bytes, random: bytes) -> None:
        """Note a hello. Another random of the client's begins another handshake; of the server's the first one counts."""
        handshakes = self._handshakes.setdefault(port, [])
        if hello == _CLIENT_HELLO:
            if not handshakes or handshakes[0].client != random:
                handshakes.insert(0, _Handshake(random))
        elif handshakes and not handshakes[0].server:
            handshakes[0].server = random

    def _records(self, *, from_client: bool) -> list[Record]:
        return [
            record for frame in self._tunnel_frames() if frame.outgoing != from_client for record in self._records_in(frame)
        ]

    def _records_in(self, frame: Frame) -> Iterator[Record]:
        rest = frame.payload
        while len(rest) >= 13:
            content_type, number, length = rest[0], int.from_bytes(rest[3:11]), int.from_bytes(rest[11:13])
            header, body, rest = rest[:13], rest[13 : 13 + length], rest[13 + length :]
            plaintext = body if number >> 48 == 0 else self._decrypt(frame, header, body)
            yield Record(frame, content_type, number, plaintext)

    def _decrypt(self, frame: Frame, header: bytes, body: bytes) -> bytes:
        size = len(body) - 24
        aad = header[3:11] + header[:3] + size.to_bytes(2)
        for keys in self._keys_of(_client_port(frame), from_client=not frame.outgoing):
            with contextlib.suppress(InvalidTag):
                return keys.cipher.decrypt(keys.iv + body[:8], body[8:], aad)
        raise InvalidTag

    def _keys_of(self, port: int, *, from_client: bool) -> Iterator[_Keys]:
        """Yield the keys of one direction, those of the last handshake from that port first. LookupError without any."""
        known = [handshake for handshake in self._handshakes.get(port, ()) if handshake.server]
        if not known:
            raise LookupError(f"no handshake from port {port} was seen")
        for handshake in known:
            if not handshake.keys:
                client, server = handshake.client, handshake.server
                block = _p_sha384(self._master_secret(client), b"key expansion" + server + client, 72)
                for direction, key, iv in ((True, block[:32], block[64:68]), (False, block[32:64], block[68:72])):
                    handshake.keys[direction] = _Keys(AESGCM(key), iv)
            yield handshake.keys[from_client]

    def _master_secret(self, client_random: bytes) -> bytes:
        for row in self._line.key_log.read_text().splitlines():
            label, random, secret = row.split()
            if label == "CLIENT_RANDOM" and random == client_random.hex():
                return bytes.fromhex(secret)
        raise LookupError("the server has not logged the keys of this session")


def _client_port(frame: Frame) -> int:
    return frame.destination_port if frame.outgoing else frame.source_port


def _p_sha384(secret: bytes, seed: bytes, size: int) -> bytes:
    """Return `size` bytes of the pseudo-random function of PSK-AES256-GCM-SHA384 (RFC 5246 section 5)."""
    output, chain = b"", seed
    while len(output) < size:
        chain = hmac.digest(secret, chain, "sha384")
        output += hmac.digest(secret, chain + seed, "sha384")
    return output[:size]
