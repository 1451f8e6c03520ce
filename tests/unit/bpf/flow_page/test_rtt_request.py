"""The words by which round trips are asked for: each side reads what the other wrote, and anything else without harm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.abi import FLOW_INFO_WORDS, WORD
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.bpf.flow_page import rtt_request
from qosctl.bpf.flow_page.by_dscp import CLASSES_END
from qosctl.bpf.flow_page.rtt_request import PROBES_MAX, REQUEST_WORDS, RoundTrip, RttRequest, RttRequestWords

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=REQUEST_WORDS, max_size=REQUEST_WORDS)


def fresh() -> memoryview:
    return rtt_request.request_words(memoryview(bytearray(FLOW_INFO_WORDS * WORD.size)))


def filled(content: list[int]) -> memoryview:
    words = fresh()
    for n, word in enumerate(content):
        words[n] = word
    return words


def test_the_words_are_the_last_of_the_page_and_nobody_elses() -> None:
    assert len(fresh()) == REQUEST_WORDS
    assert CLASSES_END <= FLOW_INFO_WORDS - REQUEST_WORDS


@given(st.integers(1, 2**64 - 1), st.sets(st.integers(0, 63), min_size=1), st.integers(0, 2**64 - 1))
def test_a_request_is_read_as_it_was_asked(number: int, classes: set[int], until: int) -> None:
    words = fresh()
    asked = RttRequest(number, [Dscp.of(value) for value in sorted(classes)], until)
    rtt_request.ask(words, asked)
    assert RttRequestWords(words).current() == asked
    rtt_request.withdraw(words)
    assert RttRequestWords(words).current() is None


def test_an_answer_is_read_as_it_was_given() -> None:
    words = fresh()
    client = RttRequestWords(words)
    assert rtt_request.answer(words, 7) is None
    client.begin(7)
    assert rtt_request.answer(words, 7) == []
    client.probe_sent(0, EF)
    client.probe_sent(1, DF)
    client.probe_echoed(1, DF, 0.0202)
    assert rtt_request.answer(words, 7) == [RoundTrip(EF, None), RoundTrip(DF, 20200)]
    client.probe_echoed(0, EF, 0.0)  # a clock too coarse to tell
    assert rtt_request.answer(words, 7) == [RoundTrip(EF, 1), RoundTrip(DF, 20200)]
    assert rtt_request.answer(words, 8) is None


@given(WORDS)
def test_any_content_is_a_request_or_none(content: list[int]) -> None:
    request = RttRequestWords(filled(content)).current()
    assert (request is None) == (content[0] == 0 or content[1] == 0)
    assert request is None or 1 <= len(request.dscps) <= 64


@given(WORDS)
def test_any_content_is_an_answer_or_none(content: list[int]) -> None:
    trips = rtt_request.answer(filled(content), content[3])
    assert trips is not None
    assert len(trips) == min(content[4], PROBES_MAX)
    assert all(trip.microseconds is None or 0 < trip.microseconds < 2**56 for trip in trips)
