import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.anyconnect.frames import DATA_BYTE, encode_dtls
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.packets.batch import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, Batch, Batcher
from qosctl.dtls.packets.counters_by_dscp import DscpCounters
from qosctl.dtls.packets.inner_header import dscp_of
from qosctl.dtls.packets.priority import by_class
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.protection import ALERT, APPLICATION_DATA, OpenedRecord, RecordOpener, RecordSealer
from qosctl.dtls.record.replay_window import ReplayWindow
from qosctl.dtls.vpn.frames import FrameKind

CIPHER = Cipher.AES_128_GCM
KEY, IV = bytes(16), bytes(4)
OVERHEAD = RecordSealer(CIPHER, KEY, IV).overhead + 1
AF41 = Dscp.parse("AF41")


class Ring:
    """A ring of marks, all zero at first."""

    def __init__(self) -> None:
        self.words = memoryview(bytearray(8 * RING_WORDS)).cast("Q")

    def marks(self) -> dict[int, int]:
        return {index: word for index, word in enumerate(self.words) if word}


class JumpingNumbering:
    """Numbers as replay-safe numbering gives them: unique, with gaps, and for EF behind what others have used."""

    good_until = math.inf

    def __init__(self) -> None:
        self.next = (1 << 48) + 10_000
        self.late = (1 << 48) + 9_000

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:  # noqa: ARG002
        if dscp is EF:
            self.late += count
            return range(self.late - count, self.late)
        self.next += 8 * count
        return range(self.next - 8 * count, self.next, 8)


def packet(dscp: Dscp, size: int, tag: int = 0) -> bytes:
    """An IPv4 packet of `size` bytes, 24 at least, that carries `tag` behind its header."""
    return bytes([0x45, dscp.value << 2]) + bytes(18) + tag.to_bytes(4) + bytes(size - 24)


def uplink(ring: Ring | None = None, batch_s: float = math.inf) -> Batcher:
    """An uplink whose batches are as long as they can be, unless told otherwise."""
    words = None if ring is None else ring.words
    return Batcher(RecordSealer(CIPHER, KEY, IV), JumpingNumbering(), words, data_byte=DATA_BYTE, batch_s=batch_s)


def sealed(up: Batcher, inner: Sequence[bytes]) -> list[Batch]:
    """Seal packets of any classes; each batch in memory of its own, since the uplink's is used again for each class."""
    batches = []
    for dscp, packets in by_class(inner):
        for batch in up.seal(dscp, packets, 0.0):
            batch.data = memoryview(bytes(batch.data))
            batches.append(batch)
    return batches


def cut(batch: Batch) -> list[memoryview]:
    """Cut a batch as the kernel does for UDP_SEGMENT."""
    size = batch.segment_size
    return [batch.data[at : at + size] for at in range(0, len(batch.data), size)]


def opened(batches: Sequence[Batch]) -> list[OpenedRecord]:
    opener = RecordOpener(CIPHER, KEY, IV, window=ReplayWindow(1 << 20))
    records = []
    for batch in batches:
        segments = cut(batch)
        assert len(segments) == batch.count
        for segment in segments:
            (record,) = opener.open(segment)  # one record a datagram, whole
            records.append(record)
    return records


packets = st.lists(
    st.builds(packet, st.sampled_from([DF, EF, AF41]), st.sampled_from([24, 60, 61, 200, 1200, 1399]), st.integers(0, 9)),
    max_size=200,
)


@given(packets)
def test_every_packet_leaves_once_in_order_within_its_class_and_marked(inner: list[bytes]) -> None:
    ring = Ring()
    batches = sealed(uplink(ring), inner)
    records = opened(batches)
    for dscp in (DF, EF, AF41):
        sent = [r.plaintext[1:] for r in records if dscp_of(r.plaintext[1:]) is dscp]
        assert sent == [p for p in inner if dscp_of(p) is dscp]
    assert len(records) == len(inner)
    assert all(r.content_type == APPLICATION_DATA and r.plaintext[0] == DATA_BYTE for r in records)
    assert ring.marks() == {r.number % RING_WORDS: mark_word(r.number, dscp_of(r.plaintext[1:])) for r in records}


@given(packets)
def test_a_batch_is_what_one_segmented_send_may_be(inner: list[bytes]) -> None:
    for batch in sealed(uplink(), inner):
        segments = cut(batch)
        sizes = [len(segment) for segment in segments]
        assert sizes[:-1] == [batch.segment_size] * (batch.count - 1)
        assert 0 < sizes[-1] <= batch.segment_size
        assert batch.count <= MAX_BATCH_RECORDS
        assert len(batch.data) <= MAX_BATCH_BYTES
        assert {dscp_of(record.plaintext[1:]) for record in opened([batch])} == {batch.dscp}
        assert int.from_bytes(batch.data[3:11]) == batch.number


@given(st.one_of(st.binary(max_size=60), st.builds(packet, st.sampled_from(list(Dscp.all())), st.integers(24, 1399))))
def test_a_packet_alone_is_sealed_marked_and_counted_as_any_other(inner: bytes) -> None:
    rings, counts = (Ring(), Ring()), (DscpCounters(), DscpCounters())
    one, many = (
        Batcher(RecordSealer(CIPHER, KEY, IV), JumpingNumbering(), ring.words, data_byte=DATA_BYTE, sent=sent)
        for ring, sent in zip(rings, counts, strict=True)
    )
    alone = one.seal_one(inner, 0.0)
    (batch,) = many.seal(dscp_of(inner), [inner], 0.0)
    assert alone == batch
    assert rings[0].marks() == rings[1].marks() != {}
    assert counts[0].by_class() == counts[1].by_class() != {}


def shape(batches: Sequence[Batch]) -> list[tuple[str, int, int]]:
    return [(batch.dscp.name, batch.segment_size - OVERHEAD, batch.count) for batch in batches]


RUNS: list[tuple[str, list[tuple[Dscp, int]], list[tuple[str, int, int]]]] = [
    ("nothing", [], []),
    ("one", [(DF, 100)], [("DF", 100, 1)]),
    ("equal lengths are one run", [(DF, 100)] * 5, [("DF", 100, 5)]),
    ("a shorter one ends its run", [(DF, 100), (DF, 100), (DF, 40), (DF, 100)], [("DF", 100, 3), ("DF", 100, 1)]),
    ("an equally short one begins the next", [(DF, 100), (DF, 40), (DF, 40)], [("DF", 100, 2), ("DF", 40, 1)]),
    ("a longer one begins the next", [(DF, 40), (DF, 100), (DF, 100)], [("DF", 40, 1), ("DF", 100, 2)]),
    ("classes never share a run", [(DF, 100), (EF, 100), (DF, 100)], [("EF", 100, 1), ("DF", 100, 2)]),
    ("64 records at most", [(DF, 100)] * 130, [("DF", 100, 64), ("DF", 100, 64), ("DF", 100, 2)]),
    ("65,000 bytes at most", [(DF, 1400)] * 64, [("DF", 1400, 45), ("DF", 1400, 19)]),
    ("one large packet is a batch", [(DF, 16383), (DF, 16383)], [("DF", 16383, 2)]),
]


@pytest.mark.parametrize(("inner", "batches"), [run[1:] for run in RUNS], ids=[run[0] for run in RUNS])
def test_runs(inner: list[tuple[Dscp, int]], batches: list[tuple[str, int, int]]) -> None:
    made = sealed(uplink(), [packet(dscp, size) for dscp, size in inner])
    assert shape(made) == batches
    assert len(opened(made)) == len(inner)


def longest(up: Batcher, bytes_per_s: float, seconds: float, start: float) -> int:
    """Offer bursts of 64 packets of 1,200 bytes at a rate; the most records a batch had in the second half."""
    burst = [packet(DF, 1200)] * 64
    bursts = int(bytes_per_s * seconds / (64 * (1200 + OVERHEAD)))
    counts = [0]
    for n in range(bursts):
        batches = up.seal(DF, burst, start + n * seconds / bursts)
        if n > bursts / 2:
            counts += [batch.count for batch in batches]
    return max(counts)


@pytest.mark.parametrize(
    ("mbit_per_s", "seconds", "records"), [(2, 4.0, 1), (10, 4.0, 1), (40, 4.0, 4), (100, 4.0, 10), (1000, 1.0, 52)]
)
def test_a_batch_takes_no_longer_than_a_millisecond_at_the_rate_of_the_moment(
    mbit_per_s: int, seconds: float, records: int
) -> None:
    """The rate is measured 20 times a second."""
    up = uplink(batch_s=0.001)
    for start in (0.0, 100.0):  # and once more after a long silence
        assert longest(up, mbit_per_s * 125_000, seconds, start) == records


def test_before_the_rate_is_known_records_go_one_by_one() -> None:
    assert shape(uplink(batch_s=0.001).seal(DF, [packet(DF, 1200)] * 3, 5.0)) == [("DF", 1200, 1)] * 3


class WatchfulNumbering(PlainNumbering):
    """Looks, whenever numbers are taken, whether all earlier ones are marked."""

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self.ring = ring
        self.taken: list[tuple[int, Dscp]] = []

    def take(self, dscp: Dscp, count: int, now: float) -> range:
        self.assert_marked()
        numbers = super().take(dscp, count, now)
        self.taken += [(number, dscp) for number in numbers]
        return numbers

    def assert_marked(self) -> None:
        for number, dscp in self.taken:
            assert self.ring.words[number % RING_WORDS] == mark_word(number, dscp)


def test_all_marks_are_stored_before_a_batch_can_be_sent() -> None:
    ring = Ring()
    numbering = WatchfulNumbering(ring)
    up = Batcher(RecordSealer(CIPHER, KEY, IV), numbering, ring.words, data_byte=DATA_BYTE)
    for _ in range(3):
        sealed(up, [packet(DF, 100), packet(EF, 60), packet(DF, 100), packet(AF41, 70)])
        numbering.assert_marked()
        up.seal_control(encode_dtls(FrameKind.DPD_OUT, b"id"), AF41, 0.0)
        numbering.assert_marked()
    assert len(numbering.taken) == 15


def test_all_64_classes_are_marked_as_themselves_in_both_families() -> None:
    v6 = [bytes([0x60 | d.value >> 2, (d.value & 3) << 6]) + bytes(38) for d in Dscp.all()]
    for inner in ([packet(dscp, 60) for dscp in Dscp.all()], v6):
        ring = Ring()
        batches = sealed(uplink(ring), inner)
        assert {batch.dscp for batch in batches} == set(Dscp.all())
        for batch in batches:
            assert dscp_of(opened([batch])[0].plaintext[1:]) is batch.dscp
            assert ring.words[batch.number % RING_WORDS] == mark_word(batch.number, batch.dscp)


def test_control_frames_are_application_data_of_the_class_they_are_told() -> None:
    ring = Ring()
    frame = encode_dtls(FrameKind.DPD_OUT, b"payload")
    batch = uplink(ring).seal_control(frame, EF, 0.0)
    (record,) = opened([batch])
    assert (record.content_type, record.plaintext) == (APPLICATION_DATA, frame)
    assert ring.marks() == {batch.number % RING_WORDS: mark_word(batch.number, EF)}


def test_alerts_are_never_marked() -> None:
    ring = Ring()
    batch = uplink(ring).seal_alert(b"\1\0", 0.0)
    (record,) = opened([batch])
    assert (record.content_type, record.plaintext) == (ALERT, b"\1\0")
    assert ring.marks() == {}


def test_a_control_frame_does_not_overwrite_batches_that_wait() -> None:
    up = uplink()
    waiting = up.seal(DF, [packet(DF, 100, tag) for tag in range(3)], 0.0)
    up.seal_control(encode_dtls(FrameKind.DPD_OUT), DF, 0.0)
    up.seal_alert(b"\1\0", 0.0)
    assert [record.plaintext[21:25] for record in opened(waiting)] == [tag.to_bytes(4) for tag in range(3)]


def test_more_than_the_buffer_holds_is_no_trouble() -> None:
    inner = [packet(DF, 1400, tag) for tag in range(500)]
    assert [record.plaintext[1:] for record in opened(sealed(uplink(), inner))] == inner


def test_it_works_without_a_ring() -> None:
    assert len(opened(sealed(uplink(None), [packet(EF, 60)]))) == 1


def test_a_ring_of_another_form_is_refused() -> None:
    sealer = RecordSealer(CIPHER, KEY, IV)
    for words in (memoryview(bytearray(8 * RING_WORDS)), memoryview(bytearray(8)).cast("Q")):
        with pytest.raises(ValueError, match="ring"):
            Batcher(sealer, PlainNumbering(), words, data_byte=DATA_BYTE)
