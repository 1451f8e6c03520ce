import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.anyconnect.frames import CstpDecoder, decode_dtls, encode_cstp, encode_dtls
from qosctl.dtls.vpn.frames import Frame, FrameError, FrameKind

frames = st.lists(st.builds(Frame, st.sampled_from(FrameKind), st.binary(max_size=50)), max_size=8)


def pieces(stream: bytes, sizes: list[int]) -> list[bytes]:
    cut, rest = [], stream
    for size in sizes:
        cut.append(rest[:size])
        rest = rest[size:]
    return [*cut, rest]


@given(frames, st.lists(st.integers(0, 20), max_size=40))
def test_frames_survive_the_stream_in_pieces_of_any_size(sent: list[Frame], sizes: list[int]) -> None:
    stream = b"".join(encode_cstp(*frame) for frame in sent)
    decoder = CstpDecoder()
    assert [frame for piece in pieces(stream, sizes) for frame in decoder.feed(piece)] == sent


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_stream_gives_frames_or_a_frame_error(chunks: list[bytes]) -> None:
    decoder = CstpDecoder()
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except FrameError:
        with pytest.raises(FrameError):
            decoder.feed(b"")


def test_a_cstp_frame_on_the_wire() -> None:
    assert encode_cstp(FrameKind.DPD_OUT, b"ab") == b"STF\x01\x00\x02\x03\x00ab"
    assert encode_cstp(FrameKind.KEEPALIVE) == b"STF\x01\x00\x00\x07\x00"


def test_a_frame_is_given_when_its_last_byte_comes_and_not_before() -> None:
    decoder = CstpDecoder()
    stream = encode_cstp(FrameKind.DATA, b"x" * 300)
    assert [decoder.feed(stream[i : i + 1]) for i in range(len(stream) - 1)] == [[]] * (len(stream) - 1)
    assert decoder.feed(stream[-1:]) == [Frame(FrameKind.DATA, b"x" * 300)]


@pytest.mark.parametrize(
    "bad",
    [b"HTTP/1.1 ", b"S", b"STG\x01", b"STF\x02", b"STF\x01\x00\x00\x00\x01", b"\0"],
    ids=["http", "almost", "magic", "version", "reserved", "zero"],
)
def test_what_is_no_frame_ends_the_stream(bad: bytes) -> None:
    decoder = CstpDecoder()
    assert decoder.feed(encode_cstp(FrameKind.DATA, b"good")) == [Frame(FrameKind.DATA, b"good")]
    with pytest.raises(FrameError):
        decoder.feed(bad if bad != b"S" else b"SX")
    with pytest.raises(FrameError):
        decoder.feed(encode_cstp(FrameKind.DATA, b"good"))


def test_an_unknown_kind_is_passed_over_and_counted() -> None:
    decoder = CstpDecoder()
    assert decoder.feed(b"STF\x01\x00\x02\x63\x00zz" + encode_cstp(FrameKind.DATA, b"a")) == [Frame(FrameKind.DATA, b"a")]
    assert decoder.unknown_kinds == 1


def test_a_payload_of_65535_bytes_fits_and_one_more_does_not() -> None:
    largest = Frame(FrameKind.DATA, bytes(65535))
    assert CstpDecoder().feed(encode_cstp(*largest)) == [largest]
    with pytest.raises(ValueError, match="65536"):
        encode_cstp(FrameKind.DATA, bytes(65536))


@given(st.sampled_from(FrameKind), st.binary(max_size=50))
def test_dtls_frames_come_back(kind: FrameKind, payload: bytes) -> None:
    assert decode_dtls(encode_dtls(kind, payload)) == Frame(kind, payload)


@given(st.binary(max_size=5))
def test_any_dtls_plaintext_gives_a_frame_or_none(plaintext: bytes) -> None:
    frame = decode_dtls(plaintext)
    known = bool(plaintext) and plaintext[0] in {0, 3, 4, 5, 7, 8, 9}
    assert (frame is not None) == known
