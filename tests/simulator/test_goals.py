"""What replay-safe numbering reaches on the paths it was made for: bulk that fills a queue, and what overtakes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulator.case import BULK_SIZE, Call, Case, Machine, Server
from tests.simulator.client import PROBE_SIZE
from tests.simulator.run import Outcome, run
from tests.simulator.steady import Bulk, frames, offered, path, share, timed

WINDOWS = (64, 128, 1024)


def probe_load(outcome: Outcome) -> float:
    """Return the probes in per cent of all bytes that arrive."""
    arrived = sum(fate.arrived for fate in outcome.classes.values()) * BULK_SIZE
    return 100 * outcome.probes * PROBE_SIZE / arrived


@pytest.mark.parametrize("round_trip", [1, 10])
@pytest.mark.parametrize("bulk", ["udp", "tcp"])
@pytest.mark.parametrize(("mbit", "video"), [(5, 0), (20, 0), (20, 4), (80, 0), (80, 4)])
def test_a_call_overtakes_bulk_and_nobody_pays(mbit: float, video: float, bulk: Bulk, round_trip: float) -> None:
    sources = (*offered(bulk, mbit), Call(), *([frames(video)] if video else ()))
    outcome = run(replace(timed(Case(sources, path(mbit, 196, round_trip))), seconds=8.0))
    assert outcome.numbers == outcome.records
    assert outcome.classes["EF"].replayed <= 1 + outcome.classes["EF"].arrived // 1000
    assert outcome.replay_loss("AF41") < 0.5
    assert outcome.replay_loss("DF") < 1.0
    assert probe_load(outcome) < 1.0


GRID = [
    Case((*offered("udp", 1), share(1, 0.1)), path(1, 2000, 1)),
    Case((*offered("tcp", 10), share(10, 10)), path(10, 200, 30)),
    Case((*offered("tcp", 20), share(20, 10)), path(20, 200, 1)),
    Case((*offered("tcp", 100), share(100, 30)), path(100, 200, 1)),
    Case((*offered("udp", 100), share(100, 1)), path(100, 2000, 30)),
    Case((*offered("udp", 300), share(300, 0.1)), path(300, 10, 30)),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("case", GRID, ids=lambda case: f"{case.path.mbit}Mbit-{case.path.queue_kb:.0f}kB")
def test_the_goals_hold_on_a_part_of_the_grid(case: Case, window: int) -> None:
    outcome = run(replace(timed(case), server=Server(window=window)))
    assert outcome.replay_loss("EF") < 0.1
    assert outcome.replay_loss("DF") < 1.0


def test_without_an_echo_it_stops_probing() -> None:
    outcome = run(Case(server=Server(mute=True), seconds=40.0))
    assert outcome.classes["EF"].replayed == 0
    assert outcome.probes < 1000  # of 4,000


def test_the_network_may_serve_the_classes_in_any_order() -> None:
    case = Case(
        (*offered("udp", 20, 0.5), share(20, 80)), replace(path(), lanes="inverted"), seconds=12.0, count_from_s=4.0
    )
    outcome = run(case)
    assert outcome.replay_loss("DF") < 0.5
    assert outcome.replay_loss("EF") < 1.0


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
    case = timed(Case((*offered(bulk, 20), Call()), replace(path(), in_packets=in_packets), Machine(stop_ms=10.0)))
    outcome = run(replace(case, seconds=20.0))
    assert outcome.replay_loss("EF") < 0.3
    assert outcome.replay_loss("DF") < 0.3


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
def test_a_video_that_begins_beside_a_full_queue_costs_bulk_nothing(bulk: Bulk) -> None:
    sources = (*offered(bulk, 20), Call(start_s=2.0), frames(4, start_s=2.0))
    outcome = run(Case(sources, replace(path(round_trip_ms=0.4), in_packets=False), seconds=6.0))
    assert outcome.classes["EF"].replayed <= 1
    assert outcome.replay_loss("AF41") < 0.1
    assert outcome.replay_loss("DF") < 0.1


@pytest.mark.parametrize("stop_ms", [10.0, 40.0])
def test_a_network_without_classes_loses_nothing_however_the_client_pauses(stop_ms: float) -> None:
    case = Case((*offered("udp", 20), Call()), replace(path(), lanes="one"), Machine(stop_ms=stop_ms), seconds=10.0)
    outcome = run(case)
    assert outcome.classes["EF"].replayed == 0
    assert outcome.classes["DF"].replayed == 0


def test_a_call_that_begins_beside_a_full_queue_is_placed_from_its_first_packet() -> None:
    outcome = run(Case((*offered("udp", 5), Call(start_s=2.0)), path(5), seconds=6.0))
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("DF") < 0.5
