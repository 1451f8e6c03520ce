"""The simulator itself: each of its mechanisms against what a pencil says."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.numbering.snapshot import Snapshot

from tests.simulator.border import table
from tests.simulator.case import BULK_SIZE, Bursts, Call, Case, Flow, Machine, Path, Server, Source, Steady, Video, parse
from tests.simulator.chance import draw
from tests.simulator.client import PROBE_SIZE, Client
from tests.simulator.clock import Clock, Record
from tests.simulator.flow import TcpFlow
from tests.simulator.link import CoDel, Link
from tests.simulator.run import Outcome, Receiver, Window, run
from tests.simulator.traffic import begin

AF41 = Dscp.parse("AF41")
MBIT = Path(mbit=8.0, round_trip_ms=0.0)
"""A thousand bytes take a millisecond."""


class Plainly(PlainNumbering):
    """Plain numbers behind the face of a numbering that probes. With `probe` it asks for that many, before all else."""

    def __init__(self, probes: int = 0) -> None:
        super().__init__(first=0)
        self.probes = probes
        self.echoes: list[int] = []

    def waits(self, now: float) -> bool:  # noqa: ARG002  (the face)
        return not self.probes

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:  # noqa: ARG002
        return EF if self.probes else None

    def probe_sent(self, dscp: Dscp, now: float) -> int:  # noqa: ARG002
        self.probes -= 1
        return self.probes + 1

    def probe_echoed(self, probe: int, now: float) -> None:  # noqa: ARG002
        self.echoes.append(probe)

    def snapshot(self, now: float) -> Snapshot:  # noqa: ARG002
        return Snapshot("plain", None, {}, 0, 0, 0, 0, 0, 0)


class Line:
    """A link, what comes out of it (name: millisecond), and what is lost."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.arrived: dict[int, float] = {}
        self.lost: list[int] = []
        self.link = Link(path, self.clock, random.Random(1), self._arrive, self._lose)

    def send(self, millisecond: float, *records: tuple[int, Dscp]) -> None:
        for number, dscp in records:
            self.clock.at(millisecond / 1000, self.link.send, Record(number, number, number, dscp, 1000, 0.0))

    def run(self, milliseconds: float = 1e6) -> dict[int, float]:
        self.clock.at(milliseconds / 1000, lambda _: None)
        self.clock.run(milliseconds / 1000, self.link.advance)
        return self.arrived

    def _arrive(self, record: Record, now: float) -> None:
        self.arrived[record.number] = round(now * 1000, 6)

    def _lose(self, record: Record, queue: bool) -> None:  # noqa: ARG002  (all one here)
        self.lost.append(record.number)


def bulk(numbers: Iterable[int]) -> list[tuple[int, Dscp]]:
    return [(number, DF) for number in numbers]


@pytest.mark.parametrize("width", [64, 128, 1024])
def test_a_window_drops_what_is_its_width_or_more_below_the_highest_it_accepted(width: int) -> None:
    window = Window(width)
    assert window.accept(5000)
    assert window.accept(5000 - width + 1)
    assert not window.accept(5000 - width)
    assert window.accept(5001)
    assert not window.accept(5001 - width)


def test_a_record_takes_its_time_on_the_link_and_half_a_round_trip() -> None:
    line = Line(Path(mbit=8.0, round_trip_ms=6.0))
    line.send(10, *bulk([1, 2]))
    assert line.run() == {1: 14, 2: 15}


def test_urgent_records_overtake_those_that_wait_but_not_the_one_that_leaves() -> None:
    line = Line(MBIT)
    line.send(0, *bulk([1, 2, 3]))
    line.send(0.5, (4, AF41), (5, EF))
    assert line.run() == {1: 1, 5: 2, 4: 3, 2: 4, 3: 5}


@pytest.mark.parametrize(("lanes", "order"), [("strict", [1, 4, 3, 2]), ("one", [1, 2, 3, 4]), ("inverted", [1, 2, 3, 4])])
def test_the_network_serves_classes_as_the_path_says(lanes: Any, order: list[int]) -> None:
    line = Line(Path(mbit=8.0, lanes=lanes))
    line.send(0, (1, DF), (2, DF), (3, AF41), (4, EF))
    assert list(line.run()) == order


def test_lanes_that_share_the_link_get_alike() -> None:
    line = Line(Path(mbit=8.0, lanes="shares"))
    line.send(0, *bulk(range(100)), *((number, EF) for number in range(100, 200)))
    line.run(100)
    assert sum(number < 100 for number in line.arrived) == pytest.approx(50, abs=3)


def test_a_lane_alone_has_the_link_for_itself() -> None:
    line = Line(Path(mbit=8.0, lanes="shares", round_trip_ms=0.0))
    line.send(0, *bulk([1, 2, 3]))
    line.send(10, (4, EF))
    assert line.run() == {1: 1, 2: 2, 3: 3, 4: 11}


def test_a_queue_has_room_for_so_many_bytes_beside_the_record_that_leaves() -> None:
    line = Line(Path(mbit=8.0, queue_kb=3.0))
    line.send(0, *bulk(range(5)))
    line.send(2.5, *bulk([5, 6, 7]))  # 3 waits, 2 is on its way
    line.run()
    assert line.lost == [4, 7]
    assert sorted(line.arrived) == [0, 1, 2, 3, 5, 6]


def test_a_queue_of_packets_has_no_more_room_for_small_ones() -> None:
    line = Line(Path(mbit=8.0, queue_kb=3 * BULK_SIZE / 1000, in_packets=True))
    for number in range(5):
        line.clock.at(0.0, line.link.send, Record(number, number, number, DF, 100, 0.0))
    line.run()
    assert line.lost == [4]


def test_a_change_of_rate_counts_from_the_next_record_on() -> None:
    line = Line(Path(mbit=8.0, rates=((0.0015, 0.8),), round_trip_ms=0.0))
    line.send(0, *bulk([1, 2, 3]))
    assert line.run() == {1: 1, 2: 2, 3: 12}


def test_codel_drops_at_the_front_when_the_queue_has_been_long_for_an_interval_and_then_ever_faster() -> None:
    codel = CoDel(0.005)
    dropped = [ms for ms in range(600) if codel.drops(ms / 1000, 0.01, 9000)]
    assert dropped == [100, 200, 271, 329, 379, 424, 464, 502, 538, 571]  # 100 ms / sqrt(1, 2, 3 ...) apart
    assert not codel.drops(0.6, 0.004, 9000)
    assert not codel.drops(0.6, 0.01, 1000)  # a packet or less is no queue


def test_codel_drops_what_waits_longest() -> None:
    line = Line(Path(mbit=8.0, codel_ms=5.0, round_trip_ms=0.0))
    line.send(0, *bulk(range(200)))
    line.run()
    assert line.lost[0] == 105  # above the target from record 5 on
    assert line.lost[0] not in line.arrived


def test_the_second_way_takes_every_other_record_and_holds_it() -> None:
    line = Line(Path(mbit=8.0, second_way=0.5, hold_ms=10.0, round_trip_ms=0.0))
    line.send(0, *bulk(range(4)))
    assert line.run() == {0: 1, 2: 3, 1: 12, 3: 14}


def test_the_second_way_may_take_several_in_a_row() -> None:
    line = Line(Path(mbit=8.0, second_way=0.5, run=3, hold_ms=100.0, round_trip_ms=0.0))
    line.send(0, *bulk(range(12)))
    assert [number for number, when in line.run().items() if when > 100] == [3, 4, 5, 9, 10, 11]


def test_a_class_may_have_a_longer_way() -> None:
    line = Line(Path(mbit=8.0, bulk_lag_ms=5.0, round_trip_ms=0.0))
    line.send(0, (1, DF), (2, EF))
    assert line.run() == {2: 2, 1: 6}


def test_a_route_may_change() -> None:
    line = Line(Path(mbit=8.0, bulk_lag_ms=5.0, odd_from_s=0.0025, round_trip_ms=0.0))
    line.send(0, *bulk([1, 2, 3]), (4, EF))
    assert line.run() == {1: 1, 4: 2, 2: 8, 3: 9}


@pytest.mark.parametrize("in_order", [True, False])
def test_jitter_reorders_unless_the_path_keeps_the_order(in_order: bool) -> None:
    line = Line(Path(mbit=80.0, jitter_ms=20.0, in_order=in_order, round_trip_ms=0.0))
    line.send(0, *bulk(range(100)))
    arrived = line.run()
    assert (list(arrived) == sorted(arrived)) is in_order
    assert all(number * 0.1 < when < number * 0.1 + 20.11 or in_order for number, when in arrived.items())


def test_losses_are_as_many_as_the_path_says() -> None:
    line = Line(Path(mbit=8.0, loss=0.1, queue_kb=1e4))
    line.send(0, *bulk(range(5000)))
    line.run()
    assert 400 < len(line.lost) < 600


def client(line: Line, machine: Machine = Machine(record_us=0.0), probes: int = 0) -> tuple[Client, Plainly]:  # noqa: B008  (frozen)
    numbering = Plainly(probes)
    return Client(numbering, machine, line.clock, random.Random(1), line.link), numbering


def test_the_client_reads_what_is_there_and_numbers_the_most_urgent_class_first() -> None:
    line = Line(MBIT)
    ours, _ = client(line, Machine(record_us=1000.0))
    ours.offer(DF, 1, 1000)  # number 0; reading and sending it takes until 1 ms
    ours.offer(DF, 2, 1000)
    ours.offer(EF, 1, 1000)
    assert line.run() == {0: 1, 1: 2, 2: 3, 3: 4}
    assert ours.records == 4


def test_a_probe_goes_in_front_and_has_a_plain_number_but_where_nobody_probes() -> None:
    sent: list[Record] = []
    line = Line(MBIT)
    line.link.send = sent.append  # type: ignore[method-assign, assignment]
    ours, _ = client(line, probes=1)
    ours.offer(DF, 2, 1000)
    assert [(record.number, record.plain, record.bare, record.probe, record.size) for record in sent] == [
        (0, 0, -1, 1, PROBE_SIZE), (1, 1, 0, 0, 1000), (2, 2, 1, 0, 1000)
    ]  # fmt: skip


def test_the_device_holds_500_packets_while_the_client_works() -> None:
    line = Line(Path(mbit=8.0, queue_kb=1e4))
    ours, _ = client(line, Machine(record_us=1000.0))
    ours.offer(DF, 1, 1000)
    ours.offer(DF, 700, 1000)
    line.run()
    assert ours.records == 501


def test_an_echo_waits_while_the_client_works() -> None:
    line = Line(MBIT)
    ours, numbering = client(line, Machine(record_us=1000.0))
    ours.offer(DF, 1, 1000)
    ours.echoed(7)
    assert not numbering.echoes
    line.run()
    assert numbering.echoes == [7]
    ours.echoed(8)
    assert numbering.echoes == [7, 8]


def test_a_stop_may_lie_between_the_choice_of_a_number_and_its_sending() -> None:
    line = Line(MBIT)
    ours, numbering = client(line, Machine(record_us=0.0, stop_ms=5.0, stop_every_s=0.001, between=1.0))
    line.run(100)  # until there was one
    ours.offer(DF, 1, 1000)
    assert numbering.take(DF, 1, 0.0)[0] == 1  # its number is taken
    assert 102 <= line.run(200)[0] < 107  # sent 1 to 5 ms later, and a millisecond on the link


def test_a_stopped_client_does_nothing() -> None:
    line = Line(MBIT)
    ours, numbering = client(line, Machine(record_us=0.0, stop_ms=1000.0, stop_every_s=0.001))
    line.run(100)
    ours.offer(DF, 1, 1000)
    ours.echoed(3)
    assert ours.records == 0 and not numbering.echoes


def receiver(server: Server, round_trip_ms: float = 4.0) -> tuple[Receiver, Clock, Outcome, list[tuple[int, float]]]:
    clock, outcome = Clock(), Outcome(Case())
    echoes: list[tuple[int, float]] = []
    made = Receiver(Case(path=Path(round_trip_ms=round_trip_ms), server=server), clock, random.Random(1), outcome)
    made.echoed = lambda probe: echoes.append((probe, round(clock.now * 1000, 6)))
    return made, clock, outcome, echoes


def probe(number: int, name: int) -> Record:
    return Record(number, number, -1, EF, PROBE_SIZE, 0.0, probe=name)


def test_a_probe_is_echoed_after_half_a_round_trip_unless_the_window_drops_it() -> None:
    server, clock, outcome, echoes = receiver(Server())
    server.receive(probe(100, 1), 0.010)
    server.receive(probe(36, 2), 0.011)
    clock.run(1.0, lambda _: None)
    assert echoes == [(1, 12)]
    assert outcome.probes_replayed == 1 and outcome.replayed == 1


def test_a_server_may_be_mute_or_stop() -> None:
    server, clock, _, echoes = receiver(Server(mute=True))
    server.receive(probe(1, 1), 0.0)
    clock.run(1.0, lambda _: None)
    assert not echoes
    server, clock, _, echoes = receiver(Server(stop_ms=100.0))
    for ms in range(1, 2001):
        server.receive(probe(ms, ms), ms / 1000)
    clock.run(9.0, lambda _: None)
    late = [when - name - 2 for name, when in echoes]
    assert len(late) == 2000 and min(late) == pytest.approx(0) and 20 < max(late) <= 100


def test_each_class_is_judged_by_its_own_numbers_and_by_plain_ones() -> None:
    server, _, outcome, _ = receiver(Server())
    server.receive(Record(30, 100, 100, EF, 100, 0.0), 0.0)  # a number taken from a gap
    server.receive(Record(29, 36, 36, DF, 100, 0.0), 0.0)
    server.receive(Record(94, 37, 37, DF, 100, 0.0), 0.0)
    server.receive(Record(30, 101, 101, EF, 100, 0.0), 0.0)
    assert outcome.classes["DF"].plain_replayed == 1 and outcome.classes["DF"].replayed == 0
    assert outcome.classes["EF"].plain_replayed == 0 and outcome.classes["EF"].replayed == 1
    assert outcome.violations == {"EF": 1} and outcome.urgent_excess == 1


class Written:
    """A sink that notes when how much was written."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.writes: list[tuple[float, str, int]] = []

    def offer(self, dscp: Dscp, count: int, size: int, flow: TcpFlow | None = None) -> None:  # noqa: ARG002  (the face)
        self.writes.append((self._clock.now, dscp.name, count))
        if flow is not None:
            for _ in range(count):
                flow.serial()

    @property
    def packets(self) -> int:
        return sum(count for _, _, count in self.writes)


@pytest.mark.parametrize(
    ("source", "packets"),
    [
        (Steady(mbit=10.224), 5 * 1000),
        (Steady(mbit=10.224, poisson=True), 5 * 1000),
        (Call(), 5 * 50),
        (Call(talk_s=1.0, silent_s=1.0), 3 * 50),
        (Bursts(kilobytes=127.8, period_s=0.5), 10 * 100),
        (Bursts(kilobytes=127.8, period_s=0.5, spread_ms=10.0, varied=0.2), 10 * 100),
        (Video(mbit=10.0), 5 * 978),
    ],
    ids=repr,
)
def test_a_source_writes_as_much_as_it_says(source: Source, packets: int) -> None:
    clock = Clock()
    sink = Written(clock)
    begin(source, clock, random.Random(1), sink)
    clock.run(5.0, lambda _: None)
    assert sink.packets == pytest.approx(packets, rel=0.13)
    assert {name for _, name, _ in sink.writes} == {source.dscp}


def test_a_burst_is_written_at_once() -> None:
    clock = Clock()
    sink = Written(clock)
    begin(Bursts(kilobytes=127.8, period_s=0.5), clock, random.Random(1), sink)
    clock.run(0.1, lambda _: None)
    assert {when for when, _, _ in sink.writes} == {0.0} and sink.packets == 100


def flow(source: Flow) -> tuple[TcpFlow, Clock, Written]:
    clock = Clock()
    sink = Written(clock)
    made = TcpFlow(source, clock, sink)
    clock.run(0.0, lambda _: None)
    return made, clock, sink


def acknowledge(sender: TcpFlow, clock: Clock, serials: Iterable[int]) -> None:
    for serial in serials:
        sender.acknowledged((serial, clock.now - 0.01))


def test_a_flow_starts_slowly_and_doubles_a_round_trip() -> None:
    sender, clock, sink = flow(Flow())
    assert sink.packets == 10
    acknowledge(sender, clock, range(10))
    assert sink.packets == 30
    acknowledge(sender, clock, range(10, 30))
    assert sink.packets == 70


def test_a_loss_costs_a_flow_three_tenths_of_its_window_once() -> None:
    sender, clock, sink = flow(Flow())
    acknowledge(sender, clock, range(10))  # 20 are out
    acknowledge(sender, clock, [10, 11, 13, 14, 15])  # 12 is late by three
    assert sink.packets == 30 + 4 * 2  # two in the place of each but the last: there the window shrinks from 24
    assert sender.outstanding == 22
    acknowledge(sender, clock, range(16, 27))
    assert sender.outstanding == 16  # 24 * 0.7


def test_a_flow_that_hears_nothing_begins_with_two() -> None:
    sender, clock, sink = flow(Flow())
    clock.run(0.5, lambda _: None)
    assert sink.packets == 12 and sender.outstanding == 2


def test_a_flow_rests_after_its_transfer_and_comes_again() -> None:
    sender, clock, sink = flow(Flow(kilobytes=6.0, rest_s=0.2))
    assert sink.packets == 5
    acknowledge(sender, clock, range(5))
    clock.run(0.1, lambda _: None)
    assert sink.packets == 5
    clock.run(0.3, lambda _: None)
    assert sink.packets == 10


def test_what_overtakes_a_queue_costs_plain_numbers_all_that_is_more_than_a_window_behind() -> None:
    # 100 records at once, 1 ms each; a call's record after 20 ms. It has number 100 and arrives behind record 20 or 21.
    # When record n arrives, the highest number is 100: those up to 36 are lost, which is 15 or 16.
    case = Case(
        sources=(Bursts(kilobytes=100.0, size=1000, period_s=9.0), Call(size=20, gap_ms=9000.0, start_s=0.0205)),
        path=Path(mbit=8.0, queue_kb=200.0),
        machine=Machine(record_us=0.0),
        seconds=1.0,
    )
    outcome = run(case, Plainly)
    assert outcome.classes["DF"].replayed in (15, 16)
    assert outcome.classes["EF"].replayed == 0


def test_what_is_sent_before_the_counting_begins_is_not_counted() -> None:
    case = Case(sources=(Steady(mbit=10.224, batch=1),), seconds=2.0, count_from_s=1.0)
    assert run(case, Plainly).classes["DF"].arrived == pytest.approx(1000, abs=20)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_plain_numbers_fare_exactly_as_those_beside_any_numbering_do(rng: random.Random) -> None:
    outcome = run(draw(rng), Plainly)
    assert sum(fate.arrived for fate in outcome.classes.values()) > 0
    assert all(fate.replayed == fate.plain_replayed for fate in outcome.classes.values())
    assert outcome.numbers == outcome.records and outcome.probes == 0


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_line_makes_its_case_again(rng: random.Random) -> None:
    case = draw(rng)
    assert parse(repr(case)) == case
    assert case.count_from_s == 0.0  # the law is for the first record, too


def test_what_is_no_case_is_refused() -> None:
    with pytest.raises(ValueError):
        parse("Path(mbit=2.0)")
    with pytest.raises(ValueError):
        parse("print(1)")


def test_a_case_runs_the_same_way_twice() -> None:
    outcomes = [run(draw(random.Random(5))) for _ in range(2)]
    assert outcomes[0] == outcomes[1]


def test_the_border_has_a_line_for_what_the_cases_have() -> None:
    said = table([run(Case(seconds=0.2), Plainly)])
    assert said.splitlines()[1].split()[:3] == ["all", "1", "0"]
    assert "two ways" not in said
