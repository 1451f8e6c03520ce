"""AnyConnect frames: what kind of thing a DTLS record or a TLS record carries.

    DTLS   | kind (1) | payload ...                                     one frame is one record
    TLS    | 'S' 'T' 'F' 01 | length (2) | kind (1) | 00 | payload ...   ("CSTP") one frame must be one TLS record

No I/O: bytes in, frames out. The TLS decoder takes a stream in pieces of any size, because TLS records may be
read together, and refuses a stream that is not CSTP. A kind nobody here knows is passed over and counted.
"""

from __future__ import annotations

from struct import Struct

from qosctl.bpf.printable import short_line
from qosctl.dtls.vpn.frames import Frame, FrameError, FrameKind

MAX_PAYLOAD_BYTES = 0xFFFF
_MAGIC = b"STF\x01"
_HEADER = Struct(">4sHBB")


_BYTES = {
    FrameKind.DATA: 0,
    FrameKind.DPD_OUT: 3,
    FrameKind.DPD_RESP: 4,
    FrameKind.DISCONN: 5,
    FrameKind.KEEPALIVE: 7,
    FrameKind.COMPRESSED: 8,
    FrameKind.TERM_SERVER: 9,
}
"""The second-last byte of a CSTP header, the first of a DTLS plaintext."""
_KINDS = {byte: kind for kind, byte in _BYTES.items()}
_DTLS_PREFIXES = {kind: bytes([byte]) for kind, byte in _BYTES.items()}

DATA_BYTE = _BYTES[FrameKind.DATA]


def encode_dtls(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return the plaintext of the DTLS record that carries the frame."""
    return _DTLS_PREFIXES[kind] + payload


def decode_dtls(plaintext: bytes) -> Frame | None:
    """Take a DTLS plaintext apart; None for an empty one and for a kind nobody here knows. Never raises."""
    if not plaintext:
        return None
    kind = _KINDS.get(plaintext[0])
    return None if kind is None else Frame(kind, plaintext[1:])


def encode_cstp(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return header and payload, to be written to TLS in one call; ValueError above 65,535 bytes of payload."""
    return _cstp(_BYTES[kind], payload)


def encode_cstp_packet(packet: bytes) -> bytes:
    """Return `encode_cstp(FrameKind.DATA, packet)`, for a little less."""
    return _cstp(DATA_BYTE, packet)


def _cstp(kind: int, payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{len(payload)} bytes do not fit a CSTP frame: {MAX_PAYLOAD_BYTES} do")
    return _HEADER.pack(_MAGIC, len(payload), kind, 0) + payload


DISCONNECT = encode_cstp(FrameKind.DISCONN, b"\xb0user disconnect")
"""It makes the server forget the cookie."""


def end_message(frame: Frame) -> str:
    """Return the words of a DISCONN or TERM_SERVER: the first byte is a code, and either may be missing."""
    return short_line(frame.payload[1:].decode("utf-8", "replace"))


class CstpDecoder:
    """Cuts the byte stream of the TLS channel into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._failed = False
        self.unknown_kinds = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`, return the frames it completes, in order.

        FrameError when the stream is not CSTP, at the first byte that says so and at every call after it: nothing
        tells where a next frame would begin. Frames before the bad header in the same call are lost with it.
        """
        if self._failed:
            raise FrameError("the TLS channel is out of step", "connect again")
        stream = self._rest + data
        frames: list[Frame] = []
        offset = 0
        while True:
            header = stream[offset : offset + _HEADER.size]
            if header[: len(_MAGIC)] != _MAGIC[: len(header)] or (len(header) == _HEADER.size and header[-1] != 0):
                self._failed = True
                self._rest = b""
                raise FrameError("the server sent something that is no CSTP frame", "connect again")
            if len(header) < _HEADER.size:
                break
            _, length, kind, _ = _HEADER.unpack(header)
            end = offset + _HEADER.size + length
            if end > len(stream):
                break
            known = _KINDS.get(kind)
            if known is None:
                self.unknown_kinds += 1
            else:
                frames.append(Frame(known, stream[offset + _HEADER.size : end]))
            offset = end
        self._rest = stream[offset:]
        return frames
