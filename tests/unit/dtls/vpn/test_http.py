"""The HTTP reader: total over any bytes, and indifferent to how they are cut."""

import contextlib
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.vpn.http import (
    BODY_BYTES_MAX,
    FIELDS_MAX,
    LINE_BYTES_MAX,
    Response,
    ResponseError,
    ResponseReader,
    request,
)

OK = b"HTTP/1.1 200 OK\r\n"


def read(pieces: Iterable[bytes], *, expect_body: bool = True) -> tuple[Response | None, bytes]:
    reader = ResponseReader(expect_body=expect_body)
    pieces = iter(pieces)
    for piece in pieces:
        response = reader.feed(piece)
        if response is not None:
            return response, reader.rest + b"".join(pieces)
    return None, reader.rest


CASES = {
    "body_of_the_announced_length": (OK + b"Content-Length: 3\r\n\r\nabc", 200, b"abc"),
    "no_length_is_no_body": (OK + b"X: y\r\n\r\n", 200, b""),
    "reason_may_be_missing": (b"HTTP/1.1 401\r\n\r\n", 401, b""),
    "bare_newlines_end_lines_too": (b"HTTP/1.0 200 OK\nContent-Length: 1\n\nz", 200, b"z"),
    "same_length_twice_is_one_length": (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nz", 200, b"z"),
    "no_content_has_no_body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b""),
}


@pytest.mark.parametrize(("wire", "status", "body"), CASES.values(), ids=CASES)
def test_reads_a_response_whole_byte_by_byte_and_with_something_behind(wire: bytes, status: int, body: bytes) -> None:
    whole, rest = read([wire])
    assert whole is not None
    assert (whole.status, whole.body, rest) == (status, body, b"")
    assert read([wire[i : i + 1] for i in range(len(wire))])[0] == whole
    assert read([wire + b"STF"]) == (whole, b"STF")
    assert read([wire[:-1]])[0] is None


REFUSED = {
    "not_http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\n",
    "status_above_599": b"HTTP/1.1 600 Odd\r\n",
    "field_without_colon": OK + b"nonsense\r\n",
    "folded_field": OK + b"A: b\r\n c\r\n",
    "control_character_in_a_value": OK + b"A: b\x00c\r\n",
    "endless_line": b"HTTP/1.1 200 " + b"a" * LINE_BYTES_MAX,
    "endless_fields": OK + b"A: b\r\n" * (FIELDS_MAX + 1),
    "endless_body": OK + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
    "negative_length": OK + b"Content-Length: -1\r\n\r\n",
    "length_of_many_digits": OK + b"Content-Length: %s\r\n\r\n" % (b"9" * 4000),
    "two_lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "transfer_coding": OK + b"Transfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED)
def test_refuses_what_does_not_fit(wire: bytes) -> None:
    with pytest.raises(ResponseError):
        read([wire])
    with pytest.raises(ResponseError):
        read([wire[i : i + 1] for i in range(len(wire))])


def test_what_follows_a_successful_connect_is_the_tunnels_whatever_its_length_says() -> None:
    response, rest = read([b"HTTP/1.1 200 CONNECTED\r\nContent-Length: 9\r\n\r\nSTF\x01"], expect_body=False)
    assert response is not None
    assert (response.body, rest) == (b"", b"STF\x01")


def test_a_refused_connect_has_a_body() -> None:
    response, _ = read([b"HTTP/1.1 503 Unavailable\r\nContent-Length: 2\r\n\r\nno"], expect_body=False)
    assert response is not None
    assert response.body == b"no"


def test_cookies_are_found_by_name_and_an_emptied_one_is_none() -> None:
    response, _ = read([OK + b'Set-Cookie: a=1; Secure\r\nset-cookie: b="q=="; Path=/\r\nSet-Cookie: c=;x\r\n\r\n'])
    assert response is not None
    assert [response.cookie(name) for name in "abcd"] == ["1", "q==", None, None]


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_any_bytes_give_a_response_or_the_one_error(pieces: list[bytes], expect_body: bool) -> None:
    with contextlib.suppress(ResponseError):
        read(pieces, expect_body=expect_body)


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() not in {"content-length", "transfer-encoding"}
)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=10),
    st.binary(max_size=300),
    st.binary(max_size=20),
    st.lists(st.integers(0, 800), max_size=8),
)
def test_where_the_bytes_are_cut_makes_no_difference(
    fields: list[tuple[str, str]], body: bytes, trailing: bytes, cuts: list[int]
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields).encode()
    wire = OK + head + b"Content-Length: %d\r\n\r\n" % len(body) + body + trailing
    borders = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    pieces = [wire[a:b] for a, b in itertools.pairwise(borders)]
    response, rest = read(pieces)
    assert response is not None
    assert response.body == body
    assert rest == trailing
    assert response.fields[:-1] == tuple((name.lower(), value) for name, value in fields)


def test_a_request_ends_its_lines_and_counts_its_body() -> None:
    assert request("POST", "/", [("Host", "a")], b"xy") == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy"


@pytest.mark.parametrize("evil", ["a\r\nX: y", "a\nb", "a\0b", "\x7f"])
def test_no_value_of_ours_can_smuggle_a_line(evil: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        request("POST", "/", [("Cookie", evil)])


@pytest.mark.parametrize("value", ["a\tb", "a b", "a,b", 'a"b', "a\\b", "\u00e9", "x" * 4097])
def test_a_cookie_that_could_not_be_sent_back_is_none(value: str) -> None:
    response = Response(200, "OK", (("set-cookie", f"webvpncontext={value}; Secure"),), b"")
    assert response.cookie("webvpncontext") is None
