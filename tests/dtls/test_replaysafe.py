"""Replay-safe numbering: what it promises whatever happens. tests/simulator has what it holds on simulated paths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.gaps import MAX_BLOCKS, GapReserve
from qosctl.dtls.numbering.lanes import Lane, Probe
from qosctl.dtls.numbering.plain import EPOCH_SHIFT, FIRST_NUMBER, NumbersExhaustedError, end_of_epoch
from qosctl.dtls.numbering.position import Position
from qosctl.dtls.numbering.probe import ProbingNumbering
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering
from qosctl.dtls.numbering.sendlog import SendLog
from qosctl.dtls.numbering.silence import held

from tests.simulator.case import Call, Case
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
            while (due := numbering.probe_due(now)) is not None:
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


@settings(max_examples=200, deadline=None)
@given(steps)
def test_numbers_are_unique_whatever_is_echoed_when(script: list[tuple[str, object, int, float]]) -> None:
    taken = play(ReplaySafeNumbering(), script)
    assert len(set(taken)) == len(taken)
    assert all(number >> EPOCH_SHIFT == 1 for number in taken)


@settings(max_examples=50, deadline=None)
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


def test_one_class_is_numbered_plainly_but_for_spare_numbers_and_hardly_probed() -> None:
    numbering = ReplaySafeNumbering()
    taken: list[int] = []
    probes = 0
    for i in range(1000):  # 10 s
        while (due := numbering.probe_due(i / 100)) is not None:
            taken += numbering.take(due, 1, i / 100) if numbering.probe_sent(due, i / 100) else ()
            probes += 1
        taken += numbering.take(DF, 7, i / 100)
    assert taken == sorted(set(taken))
    assert taken[-1] - FIRST_NUMBER < len(taken) * 5 / 4
    assert probes <= 101  # ten a second: nobody answers here, and that slows it down
    assert numbering.snapshot(10.0).mode == "plain"


def test_a_call_by_itself_is_never_probed() -> None:
    numbering = ReplaySafeNumbering()
    for i in range(1000):
        assert numbering.probe_due(i / 50) is None
        numbering.take(EF, 1, i / 50)


def test_the_second_class_makes_the_probes_dense_and_its_end_sparse() -> None:
    numbering = ReplaySafeNumbering()

    def probes(begin: float) -> int:
        count = 0
        for i in range(1000):
            while (due := numbering.probe_due(begin + i / 1000)) is not None:
                probe = numbering.probe_sent(due, begin + i / 1000)
                numbering.take(due, 1, begin + i / 1000)
                numbering.probe_echoed(probe, begin + i / 1000)
                count += 1
            numbering.take(DF, 10, begin + i / 1000)
            if begin < 1 and i % 20 == 0:
                numbering.take(EF, 1, begin + i / 1000)
        return count

    assert 50 < probes(0.0) <= 251  # every 40 records
    probes(2.0)
    assert probes(3.0) <= 20


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=60), st.data())
def test_a_reserve_gives_each_number_once_and_the_next_above_first(
    blocks: list[tuple[int, int]], data: st.DataObject
) -> None:
    reserve, free, at = GapReserve(), set[int](), 0
    for space, size in blocks:
        at += space
        reserve.add(at, at + size)
        free.update(range(at, at + size))
        at += size
    for _ in range(20):
        wanted, count = data.draw(st.integers(0, at + 5)), data.draw(st.integers(1, 30))
        got = reserve.take(wanted, count)
        assert set(got) <= free
        free -= set(got)
        assert len(got) == count or not any(number >= (got[-1] if got else wanted) for number in free)
        assert reserve.left == len(free)


def test_a_reserve_looks_below_only_where_nothing_is_close_above() -> None:
    def reserve(*starts: int) -> GapReserve:
        made = GapReserve()
        for start in starts:
            made.add(start, start + 4)
        return made

    assert reserve(70, 110, 200).take(100, 1, below=30) == [110]
    assert reserve(70, 200).take(100, 1, below=30) == [70]
    assert reserve(60, 200).take(100, 1, below=30) == [200]
    assert reserve(70, 200).take(100, 1) == [200]


@pytest.mark.parametrize(
    ("silence", "open_at", "place", "expected", "waiting"),
    [
        (0.0, (), 500, 500, False),
        (0.0, (400,), 450, 410, False),  # one is silent: late or lost, so lower, but no lower than does no harm
        (0.0, (430,), 450, 434, False),  # a stall of 4 ms, here 4 numbers, is no lateness
        (0.0, (400, 440), 440, 404, False),  # two would hardly be lost together
        (0.0, (400, 440), 500, 452, False),
        (0.0, (400, 440, 480), 600, 436, True),
        (0.5, (400, 440), 500, 500, False),  # where half is lost, two silent ones say nothing
        (0.5, (400, 440, 480), 600, 480, True),
    ],
)
def test_silence_lowers_a_place_by_as_much_as_it_proves(
    silence: float, open_at: tuple[int, ...], place: int, expected: int, waiting: bool
) -> None:
    slow, log = Lane(DF, 0.0, silence=silence), SendLog(0)
    for number in range(0, 1000, 10):
        log.note(number / 1000, number, number, 0, 0)
    for number in open_at:
        slow.opened(Probe(number, number / 1000, number, number, fresh=True))
    assert held(place, slow, 0.0, log, None) == (expected, waiting)


def test_a_reserve_is_bounded() -> None:
    reserve = GapReserve()
    for number in range(0, 3 * 10 * MAX_BLOCKS, 10):
        reserve.add(number, number + 2)
    assert reserve.left <= 2 * MAX_BLOCKS


def paced(position: Position, log: SendLog, began: float, echoes: int, gap_s: float) -> float:
    """Echo probes so many seconds apart, with 43 records between them; returns when the last one came."""
    now = began
    for _ in range(echoes):
        now += gap_s
        bulk = log.slow_at(now) + 43
        log.note(now, bulk, bulk, 0, 0)
        position.echoed(now, bulk, 0.4, 0.0001)
    return now


def test_a_burst_that_a_full_queue_drops_is_no_faster_link_but_what_stays_fast_is() -> None:
    log = SendLog(0)
    position = Position(log)
    now = paced(position, log, 0.0, 20, 0.1)
    assert position.capacity == pytest.approx(430, rel=0.02)
    now = paced(position, log, now, 4, 0.01)  # their echoes come at once: nothing between them has arrived
    assert (position.capacity or 0.0) < 430 * 1.5
    paced(position, log, now, 100, 0.01)
    assert position.capacity == pytest.approx(4300, rel=0.1)


@pytest.mark.parametrize("bulk", ["udp", "tcp"])
@pytest.mark.parametrize("wrong", ["EF is slow, DF overtakes", "nothing overtakes", "EF is far behind"])
def test_a_wrong_belief_heals(wrong: str, bulk: Bulk) -> None:
    numbering = ReplaySafeNumbering()
    # Counted is what is sent 0.5 s after the mistake: a queue of 100 ms has passed by then.
    world = World(Case((*offered(bulk, 20), Call()), path(), seconds=6.0, count_from_s=2.5), numbering)

    def mislead(_: object) -> None:
        standing = numbering._standing
        slow, fast = standing.lanes[DF], standing.lanes[EF]
        if wrong.startswith("EF is slow"):
            standing._make_slow(fast, 2.0)
            slow.placed = True
        elif wrong.startswith("nothing"):
            fast.placed = slow.placed = False
        else:
            fast.highest = 0
            fast.round_trips.clear()
            slow.round_trips.extend([1.0, 1.0, 1.0])

    world.clock.at(2.0, mislead)
    outcome = world.run()
    assert outcome.classes["EF"].replayed == 0
    assert outcome.replay_loss("DF") < 1.0


def test_echoes_that_tell_of_nothing_served_do_not_end_it() -> None:
    """Two late echoes between which nothing has arrived: a link of no capacity was divided by."""
    log = SendLog(0)
    position = Position(log)
    position.echoed(1.0, 0, 0.1, 0.001)
    position.echoed(2.0, 0, 0.1, 0.001)
    assert position.capacity is None
    assert position.at_arrival(2.0, 0.1, 0.001, 0, 0) == 0
