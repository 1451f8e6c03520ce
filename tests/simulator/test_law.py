"""The law (run.py), searched for breaches: no class loses more to the replay window than with plain numbers.

The short search of every day. The long one: `python -m tests.simulator --cases 10000`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from tests.simulator.case import parse
from tests.simulator.chance import draw
from tests.simulator.run import Outcome, run

ONCE_BROKEN = [
    f"Case(sources=({source}, Call(start_s=1.0)), path=Path({path}, round_trip_ms=0.3), seconds=8.0, seed={seed})"
    for source, path in (
        ("Bursts()", "mbit=5.0"),
        ("Bursts(period_s=0.1)", "mbit=20.0"),
        ("Bursts(kilobytes=200.0, period_s=1.0)", "mbit=5.0"),
        ("Bursts(kilobytes=240.0, period_s=1.0)", "mbit=20.0"),
        ("Steady(mbit=42.0)", "mbit=200.0, lanes='one', second_way=0.5, hold_ms=10.0, second_loss=0.12"),
        ("Steady(mbit=42.0)", "mbit=200.0, lanes='one', second_way=0.5, hold_ms=13.0, second_loss=0.12"),
    )
    for seed in (0, 1)
]
"""What cost people their calls once: bursts through a slow uplink, and two ways of different length."""
SEEDS = (
    20_048, 20_370, 20_474, 20_890, 21_401, 30_367, 30_895, 141_638, 120_430, 140_773, 170_085, 170_627, 500_289, 500_550,
    500_710, 501_510, 501_637, 501_657, 600_897, 600_951, 604_553, 605_065,
)  # fmt: skip
"""Of `python -m tests.simulator --seed`: an urgent class that another overtakes, drops at the front, AF41 between EF and
bulk, gaps while nobody knows the order, a queue of six packets, bursts of small packets, a call that pauses; queues that
drop many numbers in a row, of which the small probes survive some or none; a video that waits itself while a call talks
again; long round trips and short queues, where low numbers are of no use; a window of 128; more calls than bulk; low
numbers that are used up while two classes are in doubt; a client that stops between number and sending."""


def judge(outcome: Outcome) -> None:
    assert outcome.numbers == outcome.records, f"a number was used twice: {outcome.case}"
    assert not outcome.violations, f"{outcome.violations}: {outcome.case}"


@pytest.mark.parametrize("line", ONCE_BROKEN)
def test_what_broke_the_law_once(line: str) -> None:
    judge(run(parse(line)))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_search_has_found_before(seed: int) -> None:
    judge(run(draw(random.Random(seed))))


# The same cases each time: what fails tells of the change then. Others are drawn by `python -m tests.simulator`.
@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_no_class_is_worse_off_than_with_plain_numbers(rng: random.Random) -> None:
    outcome = run(draw(rng))
    target(float(max(fate.excess for fate in outcome.classes.values() if fate.arrived or not fate.excess)))
    judge(outcome)


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("mbit", [5.0, 20.0])
def test_a_rate_that_changes_tenfold_costs_the_call_nothing_however_long_it_was_steady(mbit: float, factor: float) -> None:
    line = (
        f"Case(sources=(Steady(mbit={2 * mbit}), Call()), path=Path(mbit={mbit}, round_trip_ms=0.4,"
        f" rates=((9.0, {mbit * factor}),)), seconds=11.0)"
    )
    outcome = run(parse(line))
    judge(outcome)
    assert outcome.classes["EF"].replayed == 0
