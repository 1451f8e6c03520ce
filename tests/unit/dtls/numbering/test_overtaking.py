"""When a class is believed to overtake, and when no more."""

from __future__ import annotations

import pytest
from qosctl.bpf.dscp import DF
from qosctl.dtls.numbering.overtaking import (
    BELIEVE_S,
    CALM_S,
    CLEAN_PROBES,
    DISTRUST_S,
    DOUBT_S,
    LEARN_S,
    TRANSITIONS,
    UNUSED_S,
    WITNESSES,
    Event,
    Overtaking,
    State,
)


def test_every_state_can_be_left_and_distrust_only_by_time() -> None:
    assert {before for before, _ in TRANSITIONS} == set(State)
    assert {event for before, event in TRANSITIONS if before is State.DISTRUSTED} == {Event.TIME_OVER}
    assert all(after is State.DISTRUSTED for (_, event), after in TRANSITIONS.items() if event is Event.DISPROVED)


def state_at(overtaking: Overtaking, now: float) -> State:
    """Let time pass until `now`."""
    overtaking.time_passes(now)
    return overtaking.state


def believed(seconds: float, *, orderly: bool = False, rtt: float = 0.001) -> bool:
    overtaking = Overtaking()
    for step in range(round(seconds / 0.02) + 1):
        overtaking.overtook(DF, 2, step * 0.02)
    return overtaking.proves(seconds, rtt, orderly=orderly)


def test_order_is_believed_after_seconds_of_it_and_sooner_where_another_class_has_proved_it() -> None:
    assert not believed(BELIEVE_S - 0.1)
    assert believed(BELIEVE_S + 0.1)
    assert not believed(0.04, orderly=True)
    assert believed(0.2, orderly=True)


def test_a_long_way_takes_longer_to_know() -> None:
    assert not believed(BELIEVE_S + 0.1, rtt=0.5)
    assert believed(4.1, rtt=0.5)


def test_few_probes_for_long_prove_nothing() -> None:
    overtaking = Overtaking()
    overtaking.overtook(DF, WITNESSES, 0.0)  # one probe counts for eight at the most
    assert not overtaking.proves(60.0, 0.001, orderly=False)


def test_one_contradiction_ends_it_and_nothing_is_believed_for_a_while() -> None:
    overtaking = Overtaking()
    for step in range(200):
        overtaking.overtook(DF, 2, step * 0.02)
    overtaking.happens(Event.PROVED, 4.0)
    overtaking.contradicted(5.0)
    assert overtaking.state is State.DISTRUSTED
    for step in range(200):
        overtaking.overtook(DF, 2, 5.0 + step * 0.02)
    assert not overtaking.proves(9.0, 0.001, orderly=True)
    assert overtaking.disproved == 1


def test_distrust_lasts_twice_as_long_each_time() -> None:
    overtaking, now = Overtaking(), 0.0
    for seconds in (DISTRUST_S, 2 * DISTRUST_S, 4 * DISTRUST_S):
        overtaking.happens(Event.PROVED, now)
        overtaking.happens(Event.DISPROVED, now)
        assert state_at(overtaking, now + seconds - 0.1) is State.DISTRUSTED
        now += seconds
        assert state_at(overtaking, now) is State.NEWEST


def test_low_probes_that_come_back_are_proof_and_gaps_that_nobody_uses_end() -> None:
    overtaking = Overtaking()
    overtaking.happens(Event.QUEUE_SEEN, 0.0)
    overtaking.clean = CLEAN_PROBES
    assert overtaking.proves(0.5, 0.001, orderly=False)
    assert not overtaking.proves(0.5, 0.1, orderly=False)
    overtaking.time_passes(LEARN_S + 0.1)
    assert overtaking.state is State.NEWEST
    assert not overtaking.happens(Event.QUEUE_SEEN, LEARN_S + 1)  # not again at once


def test_a_class_with_nothing_to_overtake_takes_new_numbers_again() -> None:
    overtaking = Overtaking()
    overtaking.happens(Event.PROVED, 0.0)
    assert state_at(overtaking, UNUSED_S - 1) is State.BEHIND
    assert state_at(overtaking, UNUSED_S + 1) is State.NEWEST


@pytest.mark.parametrize("state", list(State))
def test_a_wider_window_makes_what_was_seen_worthless_but_for_those_that_overtake(state: State) -> None:
    overtaking = Overtaking(state)
    for step in range(200):
        overtaking.overtook(DF, 2, step * 0.02)
    overtaking.start_over()
    assert overtaking.proves(4.0, 0.001, orderly=False) is (state is not State.NEWEST)


@pytest.mark.parametrize("event", [Event.DOUBTED, Event.USELESS])
def test_after_a_doubt_it_is_believed_again_without_new_proof_and_later_each_time(event: Event) -> None:
    overtaking, now = Overtaking(), BELIEVE_S + 1
    for step in range(200):
        overtaking.overtook(DF, 2, step * now / 200)
    for wait in (DOUBT_S, 2 * DOUBT_S, 4 * DOUBT_S):
        overtaking.happens(Event.PROVED, now)
        overtaking.happens(event, now)
        assert not overtaking.proves(now + 0.9 * wait, 0.001, orderly=False)
        now += wait
        assert overtaking.proves(now, 0.001, orderly=False)
    overtaking.happens(Event.PROVED, now)
    now += CALM_S + 1
    overtaking.happens(event, now)
    assert overtaking.proves(now + DOUBT_S, 0.001, orderly=False)
