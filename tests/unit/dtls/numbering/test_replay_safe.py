"""Replay-safe numbering: what it promises whatever happens. tests/simulator has what it holds on simulated paths."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.overtaking import Event, State
from qosctl.dtls.numbering.plain import EPOCH_SHIFT, FIRST_NUMBER, NumbersExhaustedError, end_of_epoch
from qosctl.dtls.numbering.probe import ProbingNumbering
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering

from tests.simulator.case import Bursts, Call, Case, Path, Server, Steady
from tests.simulator.run import World
from tests.simulator.steady import Bulk, offered, path

CLASSES = [DF, EF, Dscp.parse("AF41"), Dscp.of(8)]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(CLASSES), st.integers(0, 130), st.floats(0, 0.02)),
        st.tuples(st.just("echo"), st.integers(0, 400), st.just(0), st.floats(0, 3)),
        st.tuples(st.just("wait"), st.just(0), st.just(0), st.floats(0, 30)),
    ),
    max_size=400,
)


def play(numbering: ReplaySafeNumbering, script: list[tuple[str, object, int, float]]) -> list[int]:
    """Take, probe and echo as the script says: echoes come in any order, twice, or for probes never sent."""
    now = 0.0
    taken: list[int] = []
    for what, argument, count, elapsed in script:
        now += elapsed
        if what == "take" and isinstance(argument, Dscp):
            while (due := numbering.probe_due(now, (argument,))) is not None:
                numbering.probe_sent(due, now)
                taken += numbering.take(due, 1, now)
            numbers = numbering.take(argument, count, now)
            assert len(numbers) == count
            assert list(numbers) == sorted(numbers)
            taken += numbers
        elif what == "echo" and isinstance(argument, int):
            numbering.probe_echoed(argument, now)
        numbering.snapshot(now)
    return taken


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(steps)
def test_numbers_are_unique_whatever_is_echoed_when(script: list[tuple[str, object, int, float]]) -> None:
    taken = play(ReplaySafeNumbering(), script)
    assert len(set(taken)) == len(taken)
    assert all(number >> EPOCH_SHIFT == 1 for number in taken)


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(steps, st.integers(1, 2000))
def test_it_raises_rather_than_leave_the_epoch(script: list[tuple[str, object, int, float]], room: int) -> None:
    limit = end_of_epoch(FIRST_NUMBER)
    numbering = ReplaySafeNumbering(first=limit - room)
    taken: list[int] = []
    try:
        taken = play(numbering, script)
    except NumbersExhaustedError:
        with pytest.raises(NumbersExhaustedError):
            numbering.take(DF, room + 1, 1e6)
    assert all(limit - room <= number < limit for number in taken)


def test_it_is_a_numbering_that_probes() -> None:
    assert isinstance(ReplaySafeNumbering(), ProbingNumbering)


def drive(numbering: ReplaySafeNumbering, begin: float, seconds: float, every: dict[Dscp, float]) -> list[tuple[Dscp, int]]:
    """Send a record of each class so many seconds apart, and every probe that is asked for; each echo comes at once.

    Returns the classes and numbers of all records; `probes_sent` has the probes.
    """
    taken: list[tuple[Dscp, int]] = []
    due = dict.fromkeys(every, begin)
    while (now := min(due.values())) < begin + seconds:
        present = [dscp for dscp, when in due.items() if when <= now]
        while (dscp := numbering.probe_due(now, present)) is not None:
            probe = numbering.probe_sent(dscp, now)
            taken += [(dscp, number) for number in numbering.take(dscp, 1, now)]
            numbering.probe_echoed(probe, now)
        for dscp in present:
            taken += [(dscp, number) for number in numbering.take(dscp, 1, now)]
            due[dscp] = now + every[dscp]
    return taken


def probes(numbering: ReplaySafeNumbering, now: float) -> int:
    return numbering.snapshot(now).probes_sent


def test_one_class_has_plain_numbers_and_is_hardly_probed() -> None:
    numbering = ReplaySafeNumbering()
    taken = drive(numbering, 0.0, 10.0, {DF: 0.001})
    assert [number for _, number in taken] == list(range(FIRST_NUMBER, FIRST_NUMBER + len(taken)))
    assert probes(numbering, 10.0) <= 101  # ten a second
    assert numbering.snapshot(10.0).mode == "plain"


def test_a_call_by_itself_is_hardly_ever_probed() -> None:
    numbering = ReplaySafeNumbering()
    drive(numbering, 0.0, 10.0, {EF: 0.02})
    assert probes(numbering, 10.0) <= 10 * 50 / 24 + 2


def test_classes_that_do_not_queue_have_plain_numbers() -> None:
    numbering = ReplaySafeNumbering()
    taken = drive(numbering, 0.0, 10.0, {DF: 0.001, EF: 0.02})
    assert [number for _, number in taken] == list(range(FIRST_NUMBER, FIRST_NUMBER + len(taken)))
    assert probes(numbering, 10.0) < 0.06 * len(taken)


def test_no_class_is_probed_that_the_tunnel_has_not_carried_lately() -> None:
    numbering = ReplaySafeNumbering()
    assert {dscp for dscp, _ in drive(numbering, 0.0, 5.0, {DF: 0.001})} == {DF}
    drive(numbering, 5.0, 5.0, {DF: 0.001, EF: 0.02})
    drive(numbering, 10.0, 31.0, {DF: 0.001})
    assert {dscp for dscp, _ in drive(numbering, 41.0, 5.0, {DF: 0.001})} == {DF}


def test_a_class_that_was_probed_while_it_was_silent_is_left_alone_in_the_end() -> None:
    """Where bulk queues, a call that has overtaken it is probed on, but not for ever: each probe has its mark."""
    probed: list[float] = []

    class Noting(ReplaySafeNumbering):
        def probe_sent(self, dscp: Dscp, now: float) -> int:
            if dscp is EF:
                probed.append(now)
            return super().probe_sent(dscp, now)

    case = Case((*offered("udp", 5), Call(talk_s=6.0, silent_s=100.0)), Path(mbit=5.0, round_trip_ms=0.4), seconds=42.0)
    World(case, Noting()).run()
    assert any(8 < each < 30 for each in probed)
    assert not any(each > 37 for each in probed)


def behind_at(world: World, dscp: Dscp, when: float) -> list[State]:
    """Note the state of a class at a time."""
    seen: list[State] = []
    numbering = world.numbering
    assert isinstance(numbering, ReplaySafeNumbering)
    world.clock.at(when, lambda _: seen.append(numbering._paths[dscp].overtaking.state))
    return seen


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
def test_a_call_that_was_there_before_overtakes_from_its_first_packet_on(bulk: Bulk) -> None:
    """Lately is enough: the call's class is probed with low numbers while it is silent, and bulk queues."""
    sources = (Call(talk_s=0.3, silent_s=3.0), *offered(bulk, 20))
    case = Case(sources, Path(mbit=20.0, round_trip_ms=0.4), seconds=9.0, count_from_s=3.0)
    outcome = World(case, ReplaySafeNumbering()).run()
    assert outcome.classes["EF"].arrived > 20
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("DF") < 0.5


def test_a_call_that_nobody_knows_takes_the_newest_number_first() -> None:
    case = Case((*offered("udp", 20), Call(start_s=2.0)), path(), seconds=2.5)
    numbering = ReplaySafeNumbering()
    world = World(case, numbering)
    seen = behind_at(world, EF, 2.1)
    outcome = world.run()
    assert seen == [State.NEWEST]
    assert outcome.classes["EF"].replayed == 0


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
@pytest.mark.parametrize("wrong", ["it overtakes", "it does not"])
def test_a_wrong_belief_heals(wrong: str, bulk: Bulk) -> None:
    numbering = ReplaySafeNumbering()
    lanes: Literal["one", "strict"] = "one" if wrong == "it overtakes" else "strict"
    # Distrust lasts for ten seconds, and belief takes two.
    case = Case((Call(), *offered(bulk, 20)), Path(round_trip_ms=0.4, lanes=lanes), seconds=19.0, count_from_s=17.5)
    world = World(case, numbering)
    happened = Event.PROVED if wrong == "it overtakes" else Event.DISPROVED

    def mislead(_: object) -> None:
        numbering._paths[EF].overtaking.happens(happened, 4.0)

    world.clock.at(4.0, mislead)
    outcome = world.run()
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("DF") < 1.0


def test_a_class_that_is_late_to_itself_is_not_two_classes() -> None:
    """Two ways 13 ms apart: plain numbers stand, without gaps, and a probe takes one of 64 places at the most."""
    ways = Path(mbit=200.0, lanes="one", second_way=0.5, hold_ms=13.0)
    numbering = ReplaySafeNumbering()
    outcome = World(Case((Steady(mbit=42.0), Call()), ways, seconds=8.0), numbering).run()
    assert numbering.snapshot(8.0).gaps_used == 0
    assert outcome.numbers == numbering.newest - FIRST_NUMBER + 1  # no number was left out
    assert all(fate.replayed == fate.plain_replayed for fate in outcome.classes.values())
    assert outcome.probes < 2 * outcome.records / 64


def test_numbers_are_good_for_a_moment_only_where_they_lie_behind() -> None:
    numbering = ReplaySafeNumbering()
    until: list[float] = []
    take = numbering.take

    def taken(dscp: Dscp, count: int, now: float) -> object:
        numbers = take(dscp, count, now)
        if dscp is EF and now > 4.0:
            until.append(numbering.good_until - now)
        return numbers

    numbering.take = taken  # type: ignore[method-assign, assignment]
    World(Case((Call(), *offered("udp", 20)), Path(mbit=20.0, round_trip_ms=0.4), seconds=6.0), numbering).run()
    assert until and all(0 < each < 0.01 for each in until)
    assert numbering.take(DF, 1, 7.0) and numbering.good_until == float("inf")


@pytest.mark.parametrize("burst", [Bursts(kilobytes=120.0, period_s=0.5), Bursts(kilobytes=120.0, period_s=0.1)])
def test_bursts_cost_the_call_nothing_and_are_no_worse_off_than_with_plain_numbers(burst: Bursts) -> None:
    mbit = 5.0 if burst.period_s > 0.1 else 20.0
    for round_trip in (0.3, 5.0, 30.0):
        for window in (64, 128):
            case = Case(
                (burst, Call()), Path(mbit=mbit, round_trip_ms=round_trip), server=Server(window=window), seconds=8.0
            )
            outcome = World(case, ReplaySafeNumbering()).run()
            assert outcome.classes["EF"].replayed == 0
            assert outcome.classes["DF"].excess <= 0


def test_the_snapshot_says_what_overtakes_what() -> None:
    numbering = ReplaySafeNumbering()
    World(Case((Call(), *offered("udp", 20)), Path(mbit=20.0, round_trip_ms=0.4), seconds=6.0), numbering).run()
    seen = numbering.snapshot(6.0)
    assert (seen.mode, seen.overtaken) == ("replay-safe", DF)
    assert seen.backlog is not None
    assert seen.backlog[DF].milliseconds == pytest.approx(100, abs=10)
    assert seen.gaps_used > 0
    assert seen.ended().mode == "plain"


def test_where_many_classes_are_mixed_hardly_any_probe_is_sent() -> None:
    numbering, classes, probes = ReplaySafeNumbering(), list(Dscp.all()), 0
    for packet in range(20_000):
        now, dscp = packet * 1e-4, classes[packet % 64]
        while (due := numbering.probe_due(now, (dscp,))) is not None:
            probe = numbering.probe_sent(due, now)
            numbering.take(due, 1, now)
            numbering.probe_echoed(probe, now)
            probes += 1
        numbering.take(dscp, 1, now)
    assert probes <= 3 * 64  # one a second in each, and at the start
