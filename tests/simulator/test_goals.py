"""What replay-safe numbering reaches on the paths it was made for: bulk that fills a queue, and what overtakes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulator.case import BULK_SIZE, Bursts, Call, Case, Machine, Path, Server
from tests.simulator.client import PROBE_SIZE
from tests.simulator.run import Outcome, run
from tests.simulator.steady import Bulk, frames, offered, path, share, timed

WINDOWS = (64, 128, 1024)


def probe_load(outcome: Outcome) -> float:
    """Return the probes in per cent of all bytes that are sent, were all packets full-size ones."""
    return 100 * outcome.probes * PROBE_SIZE / ((outcome.records - outcome.probes) * BULK_SIZE)


KNOWN_S = 5.0
"""By then a path that keeps an order is known for one, and what was lost until then is over: it takes two seconds beside
the queue, for a call's first packets too, since no probe has a mark that nothing inside has."""


def known(case: Case, seconds: float = 2.0) -> Case:
    """Count for so long from when the path is known."""
    return replace(case, count_from_s=KNOWN_S, seconds=KNOWN_S + seconds)


SHORT_WAYS = [(5, 0, 0.4), (5, 0, 5), (20, 0, 0.4), (20, 0, 1), (20, 4, 0.4), (80, 0, 0.4)]
"""Mbit/s of the path and of a video, ms: in ten round trips less than a window passes. 0.4 ms is what the bench has."""


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
@pytest.mark.parametrize(("mbit", "video", "round_trip"), SHORT_WAYS)
def test_a_call_overtakes_bulk_and_nobody_pays(mbit: float, video: float, bulk: Bulk, round_trip: float) -> None:
    sources = (*offered(bulk, mbit), Call(), *([frames(video)] if video else ()))
    outcome = run(known(Case(sources, path(mbit, 196, round_trip))))
    assert outcome.numbers == outcome.records
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("AF41") < 0.5
    assert outcome.replay_loss("DF") < 1.0
    assert probe_load(outcome) < 1.0


BURSTS = [(5, 120, 0.5, 1 / 3), (20, 120, 0.1, 1 / 3), (5, 200, 1.0, 1.0), (20, 240, 1.0, 0.9)]
"""Mbit/s of the path, kB and seconds of a burst, and what of plain numbers' losses may be left when the path is known."""


@pytest.mark.parametrize(("mbit", "kilobytes", "period_s", "left"), BURSTS)
def test_bursts_of_bulk_lose_less_than_with_plain_numbers_that_nothing_probes(
    mbit: float, kilobytes: float, period_s: float, left: float
) -> None:
    """What proves the order are one or two probes in a burst; until then it costs next to nothing to look for them."""
    sources = (Bursts(kilobytes=kilobytes, period_s=period_s, varied=0.02), Call())
    case = Case(sources, Path(mbit=mbit, round_trip_ms=0.4), seconds=12.0)
    at_first, later = run(case), run(replace(case, count_from_s=10.0, seconds=20.0))
    assert at_first.classes["EF"].replayed == later.classes["EF"].replayed == 0
    assert at_first.classes["DF"].replayed <= 1.01 * at_first.classes["DF"].bare_replayed
    assert later.classes["DF"].replayed <= left * later.classes["DF"].bare_replayed


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
@pytest.mark.parametrize(("mbit", "round_trip"), [(20, 30), (80, 10), (100, 30)])
def test_on_a_long_way_the_call_is_safe_and_bulk_no_worse_off_than_with_plain_numbers(
    mbit: float, bulk: Bulk, round_trip: float
) -> None:
    """A whole queue may arrive within a round trip here: the first law comes first, and bulk has plain numbers' losses.

    So it is in a queue of 204 ms and a round trip of 30, where a link that becomes ten times as fast empties it within one.
    """
    outcome = run(known(Case((*offered(bulk, mbit), Call()), path(mbit, 196, round_trip)), seconds=1.0))
    assert outcome.classes["EF"].replayed == 0
    assert outcome.classes["DF"].excess <= 0


GRID = [
    Case((*offered("udp", 1), share(1, 0.1)), path(1, 2000, 1)),
    Case((*offered("tcp", 20), share(20, 10)), path(20, 200, 1)),
    Case((*offered("tcp", 100), share(100, 30)), path(100, 200, 1)),
    Case((*offered("udp", 300), share(300, 0.1)), path(300, 10, 30)),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("case", GRID, ids=lambda case: f"{case.path.mbit}Mbit-{case.path.queue_kb:.0f}kB")
def test_the_goals_hold_on_a_part_of_the_grid(case: Case, window: int) -> None:
    """Bulk's part is the law where ten round trips are longer than the queue, or a third of the records overtake."""
    outcome = run(replace(timed(case), server=Server(window=window)))
    assert outcome.replay_loss("EF") < 0.1
    assert outcome.replay_loss("DF") < 1.0 or outcome.classes["DF"].excess <= 0


def test_without_an_echo_it_stops_probing() -> None:
    outcome = run(Case(server=Server(mute=True), seconds=40.0))
    assert outcome.classes["EF"].replayed == 0
    assert outcome.probes < 1000  # of 4,000


def test_a_network_that_serves_bulk_first_is_left_alone() -> None:
    """Nobody stretches the numbers of an urgent class for the sake of a less urgent one."""
    sources = (*offered("udp", 20, 0.5), share(20, 80))
    outcome = run(Case(sources, replace(path(), lanes="inverted"), seconds=12.0))
    assert all(fate.replayed == fate.plain_replayed for fate in outcome.classes.values())


def test_a_network_without_classes_loses_nothing_to_the_window() -> None:
    outcome = run(Case((*offered("tcp", 20), share(20, 0.4)), replace(path(), lanes="one"), seconds=10.0))
    assert outcome.replay_loss("EF") < 1.0
    assert outcome.replay_loss("DF") < 1.0


def test_random_loss_and_a_change_of_rate_are_survived() -> None:
    case = timed(Case((*offered("tcp", 20), Call()), replace(path(), loss=0.003, rates=((6.0, 10.0), (9.0, 20.0)))))
    outcome = run(replace(case, seconds=12.0))
    assert outcome.replay_loss("EF") < 1.0
    assert outcome.replay_loss("DF") < 2.0


@pytest.mark.parametrize("in_packets", [True, False])
@pytest.mark.parametrize("bulk", ["udp", "tcp"])
def test_short_pauses_of_the_client_cost_little(bulk: Bulk, in_packets: bool) -> None:
    case = Case(
        (*offered(bulk, 20), Call()), replace(path(round_trip_ms=0.4), in_packets=in_packets), Machine(stop_ms=10.0)
    )
    outcome = run(known(case, seconds=8.0))
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("DF") < 0.3


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
def test_a_video_that_begins_beside_a_full_queue_costs_bulk_something_until_it_is_known(bulk: Bulk) -> None:
    sources = (*offered(bulk, 20), Call(), frames(4, start_s=6.0))
    case = Case(sources, replace(path(round_trip_ms=0.4), in_packets=False), seconds=9.0)
    at_first, later = run(replace(case, count_from_s=6.0)), run(replace(case, count_from_s=9.0, seconds=11.0))
    assert at_first.replay_loss("AF41") == 0 and at_first.classes["EF"].replayed == 0
    assert at_first.replay_loss("DF") < 10
    assert later.replay_loss("AF41") == 0 and later.classes["EF"].replayed == 0
    assert later.replay_loss("DF") < 1.0


@pytest.mark.parametrize("stop_ms", [10.0, 40.0])
def test_a_network_without_classes_loses_nothing_however_the_client_pauses(stop_ms: float) -> None:
    case = Case((*offered("udp", 20), Call()), replace(path(), lanes="one"), Machine(stop_ms=stop_ms), seconds=10.0)
    outcome = run(case)
    assert outcome.classes["EF"].replayed == 0
    assert outcome.classes["DF"].replayed == 0
