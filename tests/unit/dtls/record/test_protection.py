"""Records against OpenSSL: its handshake makes the keys, then one of its two ends is replaced by ours.

client (OpenSSL) <== handshake ==> server (OpenSSL)
     | keys                            ^ |
     v                                 | v
RecordSealer -- our records, our numbers  its records, its numbers --> RecordOpener
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL import _util as binding
from qosctl.dtls.record.keys import Cipher, RecordKeys, derive_keys
from qosctl.dtls.record.openssl import PskContext
from qosctl.dtls.record.protection import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    MAX_PLAINTEXT_BYTES,
    OpenCounts,
    OpenedRecord,
    RecordOpener,
    RecordSealer,
)
from qosctl.dtls.record.replay_window import ReplayWindow

PSK = bytes(range(32))
EPOCH_1 = 1 << 48
SUITES = ["PSK-AES128-GCM-SHA256", "PSK-AES256-GCM-SHA384", "PSK-CHACHA20-POLY1305"]
_PSK_SERVER = "unsigned int(SSL *, const char *, unsigned char *, unsigned int)"
_lib: Any = binding.lib
_ffi: Any = binding.ffi


class Peer:
    """A DTLS 1.2 server with a finished handshake, and the keys its client had."""

    def __init__(self, suite: str) -> None:
        def give_key(_ssl: Any, _identity: Any, out: Any, _room: int) -> int:
            _ffi.memmove(out, PSK, len(PSK))
            return len(PSK)

        self._callback = _ffi.callback(_PSK_SERVER, give_key, error=0)
        context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.set_cipher_list(suite.encode())
        context.set_options(SSL.OP_NO_QUERY_MTU)
        _lib.SSL_CTX_set_psk_server_callback(cast(Any, context)._context, self._callback)
        self._client_context = PskContext(b"psk", PSK, 48018, b"\1x")
        self._client_context.context.set_options(SSL.OP_NO_QUERY_MTU)
        self._client_context.context.set_cipher_list(suite.encode())
        self.server = SSL.Connection(context, None)
        self.server.set_accept_state()
        client = SSL.Connection(self._client_context.context, None)
        client.set_connect_state()
        ends = (client, self.server)
        for end in ends:
            end.set_ciphertext_mtu(1400)
        finished = {client: False, self.server: False}
        for _ in range(10):
            for end, other in (ends, ends[::-1]):
                try:
                    end.do_handshake()
                    finished[end] = True
                except SSL.WantReadError:
                    pass
                self._carry(end, other)
        assert all(finished.values())
        assert client.get_cipher_name() == suite
        master, client_random, server_random = client.master_key(), client.client_random(), client.server_random()
        assert master is not None
        assert client_random is not None
        assert server_random is not None
        self.cipher = Cipher.from_suite(suite)
        self.keys: RecordKeys = derive_keys(self.cipher, master, client_random, server_random)

    @staticmethod
    def _carry(source: SSL.Connection, target: SSL.Connection) -> None:
        try:
            while True:
                target.bio_write(source.bio_read(65536))
        except SSL.WantReadError:
            pass

    def sealer(self) -> RecordSealer:
        return RecordSealer(self.cipher, self.keys.client_key, self.keys.client_iv)

    def opener(self) -> RecordOpener:
        return RecordOpener(self.cipher, self.keys.server_key, self.keys.server_iv)

    def take(self, datagram: bytes) -> bytes | None:
        """Let the server read one datagram; None when it drops it."""
        self.server.bio_write(datagram)
        try:
            return self.server.recv(65536)
        except SSL.WantReadError:
            return None

    def make(self, plaintext: bytes) -> bytes:
        self.server.send(plaintext)
        return self.server.bio_read(65536)


def seal(sealer: RecordSealer, number: int, plaintext: bytes, content_type: int = APPLICATION_DATA) -> bytes:
    buffer = bytearray(len(plaintext) + sealer.overhead)
    assert sealer.seal_into(memoryview(buffer), number, content_type, plaintext) == len(buffer)
    return bytes(buffer)


@pytest.fixture(params=SUITES)
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(request.param)


KEYS = {cipher: (bytes(range(cipher.key_bytes)), bytes(range(cipher.iv_bytes))) for cipher in Cipher}


@pytest.fixture(params=Cipher)
def pair(request: pytest.FixtureRequest) -> tuple[RecordSealer, RecordOpener]:
    return make_pair(request.param)


def make_pair(cipher: Cipher) -> tuple[RecordSealer, RecordOpener]:
    return RecordSealer(cipher, *KEYS[cipher]), RecordOpener(cipher, *KEYS[cipher], window=ReplayWindow(64))


# Against OpenSSL


def test_openssl_opens_records_whose_numbers_skip_and_go_back(peer: Peer) -> None:
    sealer = peer.sealer()
    for step in (16, 17, 40, 24, 39, 41, 1000, 960, 999, (1 << 40), (1 << 40) - 60, (1 << 48) - 1):
        plaintext = b"packet %d" % step
        assert peer.take(seal(sealer, EPOCH_1 | step, plaintext)) == plaintext


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 1200, 1400, MAX_PLAINTEXT_BYTES])
def test_openssl_opens_records_of_any_size(peer: Peer, size: int) -> None:
    plaintext = bytes(i % 251 for i in range(size))
    assert peer.take(seal(peer.sealer(), EPOCH_1 | 16, plaintext)) == plaintext


def test_openssl_drops_what_we_seal_twice_under_one_number(peer: Peer) -> None:
    record = seal(peer.sealer(), EPOCH_1 | 16, b"once")
    assert peer.take(record) == b"once"
    assert peer.take(record) is None


def test_openssl_understands_our_close_notify(peer: Peer) -> None:
    peer.server.bio_write(seal(peer.sealer(), EPOCH_1 | 16, b"\1\0", ALERT))
    with pytest.raises(SSL.ZeroReturnError):
        peer.server.recv(100)


def test_we_open_what_openssl_seals(peer: Peer) -> None:
    opener = peer.opener()
    sent = [bytes([n]) * size for n, size in enumerate((1, 16, 100, 1200, 1300))]
    records = [record for plaintext in sent for record in opener.open(peer.make(plaintext))]
    assert [record.plaintext for record in records] == sent
    assert {record.content_type for record in records} == {APPLICATION_DATA}
    numbers = [record.number for record in records]
    assert numbers == list(range(numbers[0], numbers[0] + len(sent)))
    assert numbers[0] >> 48 == 1
    assert opener.counts == OpenCounts(opened=len(sent))


def test_we_open_what_openssl_seals_out_of_order_and_once(peer: Peer) -> None:
    opener = peer.opener()
    datagrams = [peer.make(b"%d" % n) for n in range(300)]
    for n in reversed(range(300)):
        assert [record.plaintext for record in opener.open(datagrams[n])] == [b"%d" % n]
    assert not any(opener.open(datagram) for datagram in datagrams)
    assert opener.counts == OpenCounts(opened=300, replayed=300)


def test_we_open_several_records_of_openssl_in_one_datagram(peer: Peer) -> None:
    opener = peer.opener()
    records = opener.open(memoryview(b"".join(peer.make(b"%d" % n) for n in range(5))))
    assert [record.plaintext for record in records] == [b"0", b"1", b"2", b"3", b"4"]


def test_we_see_the_alert_of_openssl(peer: Peer) -> None:
    peer.server.shutdown()
    (record,) = peer.opener().open(peer.server.bio_read(65536))
    assert (record.content_type, record.plaintext) == (ALERT, b"\1\0")


def test_a_flipped_bit_of_openssl_is_forged(peer: Peer) -> None:
    opener, datagram = peer.opener(), peer.make(b"genuine")
    assert opener.open(datagram[:-1] + bytes([datagram[-1] ^ 1])) == []
    assert opener.counts == OpenCounts(forged=1)
    assert len(opener.open(datagram)) == 1


# Hostile datagrams: nothing raises, each is counted once by its name, and the window stays where it was


def assert_still_opens(sealer: RecordSealer, opener: RecordOpener, number: int = EPOCH_1 | 16) -> None:
    """The window has not moved: a record as early as it can be is new, and 63 behind the next one too."""
    before = opener.counts.opened
    assert opener.open(seal(sealer, number, b"early")) == [OpenedRecord(number, APPLICATION_DATA, b"early")]
    assert opener.counts.opened == before + 1


def test_a_datagram_cut_anywhere_is_truncated(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    datagram = seal(sealer, EPOCH_1 | 500, b"inner packet")
    for size in range(1, len(datagram)):
        assert opener.open(datagram[:size]) == []
    assert opener.counts == OpenCounts(truncated=len(datagram) - 1)
    assert_still_opens(sealer, opener)


def test_any_flipped_bit_is_noticed(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    datagram = seal(sealer, EPOCH_1 | 500, b"inner packet")
    for bit in range(8 * len(datagram)):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        assert opener.open(memoryview(flipped)) == []
    counts = opener.counts
    assert counts.forged > 8 * len(b"inner packet")
    assert counts.wrong_epoch == 16
    assert counts.malformed >= 16
    # The length is the one field that a flip makes lie: too long is truncated; shorter leaves a rest, which counts too.
    assert counts.truncated > 0
    assert counts.opened == counts.replayed == 0
    assert_still_opens(sealer, opener)


def test_an_empty_datagram_holds_nothing(pair: tuple[RecordSealer, RecordOpener]) -> None:
    _, opener = pair
    assert opener.open(b"") == []
    assert opener.counts == OpenCounts()


@pytest.mark.parametrize("epoch", [0, 2, 0xFFFF])
def test_another_epoch_is_not_tried(pair: tuple[RecordSealer, RecordOpener], epoch: int) -> None:
    sealer, opener = pair
    assert opener.open(seal(sealer, epoch << 48 | 500, b"genuine but for the epoch")) == []
    assert opener.counts == OpenCounts(wrong_epoch=1)
    assert_still_opens(sealer, opener)


def test_a_replay_is_dropped_before_it_is_decrypted(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    datagram = seal(sealer, EPOCH_1 | 500, b"once")
    assert len(opener.open(datagram)) == 1
    assert opener.open(datagram) == []
    assert opener.open(seal(sealer, EPOCH_1 | 500 - 64, b"too old")) == []
    assert opener.counts == OpenCounts(opened=1, replayed=2)
    assert_still_opens(sealer, opener, EPOCH_1 | 500 - 63)


def test_a_forged_high_number_does_not_move_the_window(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    forged = bytearray(seal(sealer, EPOCH_1 | 500, b"inner packet"))
    forged[5:11] = b"\xff" * 6
    assert opener.open(memoryview(forged)) == []
    assert opener.counts == OpenCounts(forged=1)
    assert_still_opens(sealer, opener)


@pytest.mark.parametrize("content_type", [0, 20, 24, 25, 26, 0x2C, 0x3F, 255])
def test_another_content_type_is_malformed(pair: tuple[RecordSealer, RecordOpener], content_type: int) -> None:
    sealer, opener = pair
    assert opener.open(seal(sealer, EPOCH_1 | 500, b"x", content_type)) == []
    assert opener.counts == OpenCounts(malformed=1)
    assert_still_opens(sealer, opener)


@pytest.mark.parametrize("content_type", [ALERT, HANDSHAKE, APPLICATION_DATA])
def test_the_content_type_comes_with_the_record(pair: tuple[RecordSealer, RecordOpener], content_type: int) -> None:
    sealer, opener = pair
    datagram = seal(sealer, EPOCH_1 | 500, b"x", content_type)
    assert opener.open(datagram) == [OpenedRecord(EPOCH_1 | 500, content_type, b"x")]


def test_a_record_without_room_for_a_tag_has_a_bad_length_and_the_next_one_is_found(
    pair: tuple[RecordSealer, RecordOpener],
) -> None:
    sealer, opener = pair
    least = sealer.overhead - 13
    for length in range(least):
        stub = bytes([APPLICATION_DATA, 0xFE, 0xFD]) + (EPOCH_1 | 400).to_bytes(8) + length.to_bytes(2) + bytes(length)
        (record,) = opener.open(stub + seal(sealer, EPOCH_1 | 500 + length, b"next"))
        assert record.plaintext == b"next"
    assert opener.counts == OpenCounts(opened=least, bad_length=least)


def test_a_record_longer_than_records_are_has_a_bad_length(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    length = MAX_PLAINTEXT_BYTES + 1 + sealer.overhead - 13
    header = bytes([APPLICATION_DATA, 0xFE, 0xFD]) + (EPOCH_1 | 500).to_bytes(8) + length.to_bytes(2)
    assert opener.open(header + bytes(length)) == []
    assert opener.counts == OpenCounts(bad_length=1)
    assert_still_opens(sealer, opener)


COUNTS = [field.name for field in dataclasses.fields(OpenCounts)]


def counted(opener: RecordOpener) -> dict[str, int]:
    """As dataclasses.asdict, without its deep copies: of 65,000 rounds they took the most."""
    return {name: getattr(opener.counts, name) for name in COUNTS}


def test_a_lying_length_is_truncated_or_forged_or_bad(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    whole = seal(sealer, EPOCH_1 | 500, bytes(200))
    for told in (told for told in range(1 << 16) if told != len(whole) - 13):
        before = counted(opener)
        assert opener.open(whole[:11] + told.to_bytes(2) + whole[13:]) == []
        grown = {name for name, count in counted(opener).items() if count != before[name]}
        if told > len(whole) - 13:
            assert grown == {"truncated"}
        else:  # the rest is taken for a further record, and is none
            assert grown & {"forged", "bad_length"}
            assert grown <= {"forged", "bad_length", "truncated", "malformed"}
    assert_still_opens(sealer, opener)


def test_a_forged_record_does_not_hide_the_next_in_its_datagram(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    first, second = (seal(sealer, EPOCH_1 | n, b"inner packet") for n in (500, 501))
    records = opener.open(first[:-1] + bytes([first[-1] ^ 0x80]) + second)
    assert [record.number for record in records] == [EPOCH_1 | 501]
    assert opener.counts == OpenCounts(opened=1, forged=1)


def total(counts: OpenCounts) -> int:
    return sum(cast(int, value) for value in dataclasses.asdict(counts).values())


@given(st.sampled_from(Cipher), st.binary(max_size=200))
def test_any_bytes_are_counted_and_nothing_else(cipher: Cipher, data: bytes) -> None:
    sealer, opener = make_pair(cipher)
    assert opener.open(data) == []
    assert (total(opener.counts) > 0) == bool(data)
    assert_still_opens(sealer, opener)


@settings(max_examples=3 * settings().max_examples)
@given(st.sampled_from(Cipher), st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.data())
def test_a_damaged_datagram_gives_only_what_was_sealed(cipher: Cipher, texts: list[bytes], data: st.DataObject) -> None:
    """Cut, grown, patched at random: what comes out is a record that went in, each once."""
    sealer, opener = make_pair(cipher)
    sealed = {EPOCH_1 | 100 + n: text for n, text in enumerate(texts)}
    datagram = bytearray(b"".join(seal(sealer, number, text) for number, text in sealed.items()))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(datagram)))
        end = at + data.draw(st.integers(0, 3))
        datagram[at:end] = data.draw(st.binary(max_size=3))
    records = opener.open(memoryview(datagram))
    numbers = [record.number for record in records]
    assert len(set(numbers)) == len(numbers)
    for record in records:
        assert sealed[record.number] == record.plaintext


# Sealing


def test_the_overhead_is_37_bytes_for_gcm_and_29_for_chacha() -> None:
    overheads = {cipher: make_pair(cipher)[0].overhead for cipher in Cipher}
    assert overheads == {Cipher.AES_128_GCM: 37, Cipher.AES_256_GCM: 37, Cipher.CHACHA20_POLY1305: 29}


def test_the_header_on_the_wire(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, _ = pair
    record = seal(sealer, 0x0001_0203_0405_0607, b"abc")
    assert record[:11] == bytes.fromhex("17 fefd 0001 020304050607")
    assert int.from_bytes(record[11:13]) == len(record) - 13


def test_records_are_written_where_they_are_told_and_nowhere_else(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, opener = pair
    buffer = bytearray(b"\xaa" * 200)
    size = sealer.seal_into(memoryview(buffer), EPOCH_1 | 16, APPLICATION_DATA, b"abc", 50)
    assert buffer[:50] == b"\xaa" * 50
    assert buffer[50 + size :] == b"\xaa" * (150 - size)
    assert opener.open(memoryview(buffer)[50 : 50 + size])[0].plaintext == b"abc"


def test_what_does_not_fit_is_refused(pair: tuple[RecordSealer, RecordOpener]) -> None:
    sealer, _ = pair
    with pytest.raises(ValueError, match="do not fit a record"):
        sealer.seal_into(memoryview(bytearray(20000)), EPOCH_1, APPLICATION_DATA, bytes(MAX_PLAINTEXT_BYTES + 1))
    for room in range(sealer.overhead + 3):
        with pytest.raises(ValueError, match="does not fit the buffer"):
            sealer.seal_into(memoryview(bytearray(room)), EPOCH_1, APPLICATION_DATA, b"abc")


@pytest.mark.parametrize("cipher", Cipher)
def test_keys_of_another_size_are_refused(cipher: Cipher) -> None:
    key, iv = KEYS[cipher]
    for make in (RecordSealer, RecordOpener):
        for bad_key, bad_iv in wrong_sizes(key, iv):
            with pytest.raises(ValueError, match="takes"):
                make(cipher, bad_key, bad_iv)


def wrong_sizes(key: bytes, iv: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield from itertools.chain(((key[:-1], iv), (key + b"x", iv)), ((key, iv[:-1]), (key, iv + b"x")))
