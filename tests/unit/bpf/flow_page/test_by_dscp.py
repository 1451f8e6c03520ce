"""What each class has carried, in a flow's page: written, read back, and no other words touched."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.abi import FLOW_INFO_WORDS
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.flow_page.by_dscp import (
    CLASSES_END,
    CLASSES_WORD,
    ClassUse,
    Queued,
    backlog_word,
    classes_in,
    write_classes,
)
from qosctl.bpf.flow_page.page import page_words, statistics_in, statistics_of, suite_in, write_suite
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState, state_name

WORDS = st.integers(0, 2**64 - 1)
BYTES = FLOW_INFO_WORDS * 8


def page() -> memoryview:
    return memoryview(bytearray(BYTES))


@given(st.dictionaries(st.sampled_from(list(Dscp.all())), st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS)), st.text())
def test_everything_in_a_page_is_read_back_as_it_was_stored(uses: dict[Dscp, tuple[int, ...]], suite: str) -> None:
    info = page()
    words = page_words(info)
    statistics = statistics_in(words)
    for statistic in Statistic:
        statistics[statistic] = 1000 + statistic
    classes = {dscp: ClassUse._make(use) for dscp, use in uses.items()}
    write_classes(words, classes)
    write_suite(words, suite)
    assert list(statistics_of(info)) == [1000 + statistic for statistic in Statistic]
    assert classes_in(info) == classes
    assert list(classes_in(info)) == sorted(classes)
    if suite.isprintable():
        assert suite_in(info) == suite.encode()[:64].decode("utf-8", "replace")
    assert not any(words[CLASSES_END:])
    assert not any(words[:16])
    assert not any(words[16 + len(Statistic) : CLASSES_WORD - 8])


def test_nothing_that_a_client_writes_is_obeyed_by_a_terminal() -> None:
    info = page()
    write_suite(page_words(info), "x\x07\x9b")
    assert suite_in(info) == r"x\x07\x9b"


def test_a_page_that_says_nothing_of_classes_has_none() -> None:
    """As an older client leaves it."""
    assert (classes_in(page()), suite_in(page())) == ({}, "")


@given(st.integers(0, 2**64))
def test_any_page_can_be_read(seed: int) -> None:
    raw = random.Random(seed).randbytes(BYTES)
    for use in classes_in(raw).values():
        assert use.queued is None or min(use.queued) >= 0
    assert suite_in(raw).isprintable()
    assert state_name(statistics_of(raw)[Statistic.STATE])


def test_a_class_that_is_no_longer_told_of_is_gone() -> None:
    words = page_words(page())
    use = ClassUse(1, 2, 3, 4, 0)
    write_classes(words, {EF: use, Dscp.of(5): use})
    write_classes(words, {EF: use})
    assert classes_in(words.cast("B")) == {EF: use}


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_backlog_fits_its_word(records: int, microseconds: int) -> None:
    word = backlog_word(Queued(records, microseconds))
    assert struct.pack("=Q", word)
    queued = ClassUse(0, 0, 0, 0, word).queued
    assert queued == Queued(min(records, 2**31 - 1), min(microseconds, 2**32 - 1))
    assert ClassUse(0, 0, 0, 0, backlog_word(None)).queued is None


def test_states_go_by_name() -> None:
    assert [state_name(state) for state in TunnelState] == ["reconnecting", "tls", "dtls"]
    assert state_name(77) == "unknown"
