"""One DTLS 1.2 record, sealed and opened (RFC 6347 4.1, RFC 5288 for AES-GCM, RFC 7905 for ChaCha20-Poly1305).

     0      1        3         5                11       13                 21
    +------+--------+---------+----------------+--------+- - - - - - - - - +------------+-----+
    | type | fe fd  |  epoch  | sequence number| length |  explicit nonce  | ciphertext | tag |
    +------+--------+---------+----------------+--------+- - - - - - - - - +------------+-----+
                    '---- record number -------'        '---- AES-GCM -----'              16

    AAD    number (8), type (1), version (2), plaintext length (2)
    nonce  AES-GCM: IV (4), explicit nonce (8); ChaCha20-Poly1305: IV (12) xor the number, nothing on the wire

The record number is one int, epoch << 48 | sequence number; who gives numbers out is `numbering`'s business, and
this file seals whatever number it is told. It does no I/O. What comes in is hostile: `RecordOpener.open` takes any
bytes, raises nothing, and counts by name what it did with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from qosctl.dtls.numbering.plain import EPOCH_SHIFT, FIRST_EPOCH
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.replay_window import ReplayWindow

ALERT = 21
HANDSHAKE = 22
APPLICATION_DATA = 23

DTLS_1_2 = 0xFEFD
HEADER_BYTES = 13
TAG_BYTES = 16
NONCE_BYTES = 12
MAX_PLAINTEXT_BYTES = 1 << 14  # RFC 6347 4.1: as in TLS

_HEADER_AND_NONCE = Struct(">BHQHQ")
_pack_header_and_nonce = _HEADER_AND_NONCE.pack_into
_unpack_header_and_nonce = _HEADER_AND_NONCE.unpack_from
_pack_aad = Struct(">QBHH").pack


def _aead(cipher: Cipher, key: bytes) -> AESGCM | ChaCha20Poly1305:
    if len(key) != cipher.key_bytes:
        raise ValueError(f"{cipher.name} takes a key of {cipher.key_bytes} bytes, not {len(key)}")
    return ChaCha20Poly1305(key) if cipher is Cipher.CHACHA20_POLY1305 else AESGCM(key)


def _explicit_nonce_bytes(cipher: Cipher) -> int:
    return NONCE_BYTES - cipher.iv_bytes


def _nonce_base(cipher: Cipher, iv: bytes) -> int:
    """Return the IV as an int in its place in the nonce, so that both ciphers' nonces are base xor 64-bit number."""
    if len(iv) != cipher.iv_bytes:
        raise ValueError(f"{cipher.name} takes an IV of {cipher.iv_bytes} bytes, not {len(iv)}")
    return int.from_bytes(iv) << (8 * _explicit_nonce_bytes(cipher))


class RecordSealer:
    """Seals the records of one direction of one epoch."""

    __slots__ = ("_aead", "_body", "_nonce_base", "overhead")

    overhead: int
    """Bytes a record is longer than its plaintext, header included."""

    def __init__(self, cipher: Cipher, key: bytes, iv: bytes) -> None:
        self._aead = _aead(cipher, key)
        self._nonce_base = _nonce_base(cipher, iv)
        self._body = HEADER_BYTES + _explicit_nonce_bytes(cipher)
        self.overhead = self._body + TAG_BYTES

    def seal_into(
        self, buffer: memoryview, number: int, content_type: int, plaintext: bytes | memoryview, offset: int = 0
    ) -> int:
        """Write the record `number` holding `plaintext` to `buffer` from `offset` and return its size in bytes.

        `number` has 64 bits and must never have been sealed before. ValueError when `plaintext` is longer than a
        record may be or `buffer` has no room for it.
        """
        # `seal_run` written out for one record: out of the cache, its preparations double the time.
        size = len(plaintext)
        if size > MAX_PLAINTEXT_BYTES:
            raise ValueError(f"{size} bytes do not fit a record: {MAX_PLAINTEXT_BYTES} do")
        start = offset + self._body
        end = start + size + TAG_BYTES
        if end > len(buffer):
            raise ValueError(f"a record of {end - offset} bytes does not fit the buffer")
        # Where the cipher has no explicit nonce, the ciphertext goes over the second number again.
        _pack_header_and_nonce(buffer, offset, content_type, DTLS_1_2, number, end - offset - HEADER_BYTES, number)
        nonce = (self._nonce_base ^ number).to_bytes(NONCE_BYTES)
        aad = _pack_aad(number, content_type, DTLS_1_2, size)
        self._aead.encrypt_into(nonce, plaintext, aad, buffer[start:end])
        return end - offset

    def seal_run(  # noqa: PLR0913, PLR0917  (a call for each record costs what half the sealing does)
        self,
        buffer: memoryview,
        numbers: Sequence[int],
        content_type: int,
        prefix: bytes,
        plaintexts: Sequence[bytes | memoryview],
        offset: int,
    ) -> int:
        """Write a record for each of `numbers` and `plaintexts`, back to back, and return where the last one ends.

        `prefix` goes before each plaintext, inside the record. Otherwise as `seal_into`.
        """
        longest = max(map(len, plaintexts)) + len(prefix)
        if longest > MAX_PLAINTEXT_BYTES:
            raise ValueError(f"{longest} bytes do not fit a record: {MAX_PLAINTEXT_BYTES} do")
        encrypt_into, nonce_base = self._aead.encrypt_into, self._nonce_base
        head, around, room = self._body, len(prefix), len(buffer)
        for number, plaintext in zip(numbers, plaintexts, strict=True):
            size = around + len(plaintext)
            start = offset + head
            end = start + size + TAG_BYTES
            if end > room:
                raise ValueError(f"a record of {end - offset} bytes does not fit the buffer")
            # Where the cipher has no explicit nonce, the ciphertext goes over the second number again.
            _pack_header_and_nonce(buffer, offset, content_type, DTLS_1_2, number, end - offset - HEADER_BYTES, number)
            nonce = (nonce_base ^ number).to_bytes(NONCE_BYTES)
            aad = _pack_aad(number, content_type, DTLS_1_2, size)
            encrypt_into(nonce, prefix + plaintext, aad, buffer[start:end])
            offset = end
        return offset


class OpenedRecord(NamedTuple):
    """An authentic record, seen for the first time."""

    number: int
    content_type: int
    plaintext: bytes


@dataclass(slots=True)
class OpenCounts:
    """What became of the records that came in. One record, or one rest of a datagram, is counted once."""

    opened: int = 0
    """Authentic, new, of a known type: handed to the caller."""
    truncated: int = 0
    """Shorter than any record, or than the length in its header says; ends the datagram."""
    malformed: int = 0
    """Not DTLS 1.2 or not a content type we know; ends the datagram."""
    bad_length: int = 0
    """Too short for nonce and tag, or longer than a record may be."""
    wrong_epoch: int = 0
    """Of the handshake's epoch, or of one for which there are no keys."""
    replayed: int = 0
    """Seen before, or too old to know."""
    forged: int = 0
    """Not sealed by the peer with these bytes in header and body."""


class RecordOpener:
    """Opens the records of one direction of one epoch, and keeps the replay window."""

    __slots__ = ("_aead", "_epoch", "_explicit", "_first", "_nonce_base", "_window", "counts")

    counts: OpenCounts

    def __init__(
        self, cipher: Cipher, key: bytes, iv: bytes, *, epoch: int = FIRST_EPOCH, window: ReplayWindow | None = None
    ) -> None:
        self._aead = _aead(cipher, key)
        self._explicit = _explicit_nonce_bytes(cipher)
        self._nonce_base = _nonce_base(cipher, iv)
        self._epoch = epoch
        self._window = ReplayWindow() if window is None else window
        self._first: int | None = None
        self.counts = OpenCounts()

    @property
    def missing(self) -> int:
        """Numbers between the first record and the highest whose records have not come: lost, or late."""
        return 0 if self._first is None else max(0, self._window.top - self._first + 1 - self.counts.opened)

    def open(self, datagram: memoryview | bytes) -> list[OpenedRecord]:
        """Return the new, authentic records in `datagram`, in wire order. Never raises.

        A datagram may hold several records (RFC 6347 4.1.1). A record that fails is skipped; one whose header makes
        no sense ends the datagram, since nothing says where the next begins.
        """
        records: list[OpenedRecord] = []
        counts, window, explicit = self.counts, self._window, self._explicit
        size = len(datagram)
        least = HEADER_BYTES + explicit + TAG_BYTES
        end = 0
        while end < size:
            start = end
            if size - start < least:
                counts.truncated += 1
                break
            content_type, version, number, length, explicit_nonce = _unpack_header_and_nonce(datagram, start)
            if version != DTLS_1_2 or not ALERT <= content_type <= APPLICATION_DATA:
                # ChangeCipherSpec (20) never comes under a cipher, and the handshake's own epoch is over.
                counts.malformed += 1
                break
            end = start + HEADER_BYTES + length
            if end > size:
                counts.truncated += 1
                break
            plaintext_bytes = end - start - least
            if not 0 <= plaintext_bytes <= MAX_PLAINTEXT_BYTES:
                counts.bad_length += 1
                continue
            if number >> EPOCH_SHIFT != self._epoch:
                counts.wrong_epoch += 1
                continue
            if number <= window.top and not window.accepts(number):
                counts.replayed += 1
                continue
            # An explicit nonce is the peer's choice; that ours is the number is one way of two (RFC 5288 3).
            nonce = (self._nonce_base ^ (explicit_nonce if explicit else number)).to_bytes(NONCE_BYTES)
            aad = _pack_aad(number, content_type, DTLS_1_2, plaintext_bytes)
            try:
                # Not decrypt_into: it saves nothing at these sizes, and bytes of its own outlive the next datagram.
                plaintext = self._aead.decrypt(nonce, datagram[start + HEADER_BYTES + explicit : end], aad)
            except InvalidTag:
                counts.forged += 1
                continue
            window.mark(number)
            records.append(OpenedRecord(number, content_type, plaintext))
        counts.opened += len(records)
        if self._first is None and records:
            self._first = min(record.number for record in records)
        return records
