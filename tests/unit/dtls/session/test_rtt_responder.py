"""Round trips that another process asks for: bounded whatever it asks, and nothing is believed that comes back."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.bpf.flow_page import rtt_request
from qosctl.bpf.flow_page.rtt_request import PROBES_MAX, RoundTrip, RttRequest, RttRequestWords
from qosctl.dtls.session.dpd_payload import DpdPayload
from qosctl.dtls.session.rtt_responder import LONGEST_S, PAUSE_S, RttResponder

FOREVER = 2**64 - 1
TEND_S = 0.01


def fresh() -> memoryview:
    return memoryview(bytearray(8 * rtt_request.REQUEST_WORDS)).cast("Q")


def tended(asked: RttResponder, start: float, end: float) -> list[tuple[float, Dscp, int]]:
    """What leaves while `due` is asked as often as a busy client does."""
    sent = []
    for tick in range(round(start / TEND_S), round(end / TEND_S)):
        probe = asked.due(tick * TEND_S)
        if probe is not None:
            sent.append((tick * TEND_S, *probe))
    return sent


def test_nothing_is_sent_unasked() -> None:
    asked = RttResponder(RttRequestWords(fresh()))
    assert tended(asked, 0, 1) == []
    assert asked.next_time() == math.inf


def test_the_classes_take_turns_at_their_pace_and_echoes_become_round_trips() -> None:
    words = fresh()
    asked = RttResponder(RttRequestWords(words))
    rtt_request.ask(words, RttRequest(9, (DF, EF), FOREVER))
    sent = tended(asked, 0, 1)
    assert [dscp for _, dscp, _ in sent] == [DF, EF] * 4
    assert all(len(DpdPayload.ROUND_TRIP.encode(probe)) == 12 for _, _, probe in sent)
    assert len({probe for _, _, probe in sent}) == len(sent)
    assert min(b[0] - a[0] for a, b in itertools.pairwise(sent)) >= PAUSE_S - TEND_S / 2
    asked.echoed(sent[1][2], sent[1][0] + 0.0005)
    assert rtt_request.answer(words, 9) == [
        RoundTrip(DF, None), RoundTrip(EF, 500), *(RoundTrip(dscp, None) for dscp in (DF, EF) * 3)
    ]  # fmt: skip


def test_an_echo_counts_once_and_only_for_the_request_at_hand() -> None:
    words = fresh()
    asked = RttResponder(RttRequestWords(words))
    rtt_request.ask(words, RttRequest(9, (EF,), FOREVER))
    ((_, _, probe), *_) = tended(asked, 0, 0.05)
    asked.echoed(probe, 0.02)
    asked.echoed(probe, 5.0)
    assert rtt_request.answer(words, 9) == [RoundTrip(EF, 20000)]
    rtt_request.ask(words, RttRequest(10, (EF,), FOREVER))
    tended(asked, 1, 1.01)
    asked.echoed(probe, 1.5)
    assert rtt_request.answer(words, 10) == [RoundTrip(EF, None)]


@pytest.mark.parametrize("until_s", [2.0, 10**6, FOREVER / 1e9])
def test_a_request_is_answered_for_so_long_and_with_so_many_probes(until_s: float) -> None:
    words = fresh()
    asked = RttResponder(RttRequestWords(words))
    rtt_request.ask(words, RttRequest(9, (EF,), min(FOREVER, round(until_s * 1e9))))
    sent = tended(asked, 0, 60)
    assert len(sent) <= PROBES_MAX
    assert sent[-1][0] < min(until_s, LONGEST_S)
    assert asked.next_time() == math.inf


def test_a_request_whose_time_is_over_is_not_answered() -> None:
    words = fresh()
    rtt_request.ask(words, RttRequest(9, (EF,), 1_000_000_000))
    assert tended(RttResponder(RttRequestWords(words)), 5, 20) == []


def test_withdrawn_is_over() -> None:
    words = fresh()
    asked = RttResponder(RttRequestWords(words))
    rtt_request.ask(words, RttRequest(9, (EF,), FOREVER))
    assert tended(asked, 0, 1)
    rtt_request.withdraw(words)
    assert tended(asked, 1, 2) == []


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5), min_size=1, max_size=30), st.integers(0))
def test_whatever_is_written_there_no_more_leaves_than_the_pace_allows(writes: list[list[int]], echo: int) -> None:
    words = fresh()
    asked = RttResponder(RttRequestWords(words))
    sent = 0
    for tick, content in enumerate(writes):
        for n, word in enumerate(content):
            words[n] = word
        sent += asked.due(tick * TEND_S) is not None
        asked.echoed(echo, tick * TEND_S)
    assert sent <= 1 + len(writes) * TEND_S / PAUSE_S
