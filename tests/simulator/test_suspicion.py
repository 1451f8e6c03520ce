"""How well the numbering knows what the receiver drops, on random paths that let it know.

Not judged, for nothing tells of it: a server that echoes nothing, late, or in another order; a path that changes the order;
a queue that drops a quarter of a class and more, of which nobody knows whether it was that or the window.
"""

from __future__ import annotations

import itertools
import random

from tests.simulator.case import Case, Server
from tests.simulator.chance import draw
from tests.simulator.run import Outcome, run

CASES, FIRST_SEED = 80, 800_000
MOST_WRONG = 8
"""One in ten: probes are a sample, and a class that starves looks like one that is dropped."""
PROBES = 4
"""One probe stands for so many records as there are for each; so many of them may be lost by chance."""
MOST_DROPPED = 0.25


def tells(case: Case) -> bool:
    path = case.path
    order = not path.second_way and (path.in_order or not path.jitter_ms)
    return order and case.server in {Server(), Server(window=65)} and case.seconds >= 1.5


def can_be_known(outcome: Outcome) -> bool:
    lost = [(fate.queue_dropped + fate.path_lost, fate.arrived) for fate in outcome.classes.values()]
    return all(gone <= MOST_DROPPED * (gone + arrived) for gone, arrived in lost)


def within_two(outcome: Outcome) -> bool:
    chance = max(20.0, PROBES * outcome.records / max(1, outcome.probes))
    return outcome.replayed / 2 - chance <= outcome.suspected <= 2 * outcome.replayed + chance


def test_what_is_dropped_is_suspected_within_a_factor_of_two() -> None:
    drawn = ((seed, draw(random.Random(seed))) for seed in itertools.count(FIRST_SEED))
    outcomes = ((seed, run(case)) for seed, case in drawn if tells(case))
    judged = list(itertools.islice(((seed, each) for seed, each in outcomes if can_be_known(each)), CASES))
    wrong = [(seed, each.replayed, each.suspected) for seed, each in judged if not within_two(each)]
    assert sum(each.replayed > 20 for _, each in judged) > CASES // 5
    assert len(wrong) <= MOST_WRONG, wrong
