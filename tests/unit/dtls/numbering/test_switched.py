"""Numbers tell nothing while no mark leaves, and are unique however often the switch is turned."""

from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, Dscp
from qosctl.dtls.numbering.switched import SwitchedNumbering

EF = Dscp.parse("EF")


def _drive(numbering: SwitchedNumbering, rounds: int, start: float) -> tuple[list[int], list[int]]:
    """Bulk and a call, and every probe that is asked for; returns the numbers taken, and the ids of the probes."""
    numbers: list[int] = []
    probes: list[int] = []
    now = start
    for turn in range(rounds):
        now += 0.001
        while (dscp := numbering.probe_due(now, (DF, EF))) is not None:
            probes.append(numbering.probe_sent(dscp, now))
            numbers += numbering.take(dscp, 1, now)
        numbers += numbering.take(DF, 8, now)
        if turn % 20 == 0:
            numbers += numbering.take(EF, 1, now)
    return numbers, probes


def test_consecutive_numbers_and_no_probe_until_marks_leave() -> None:
    numbers, probes = _drive(SwitchedNumbering(first=100), 2_000, 0.0)
    assert numbers == list(range(100, 100 + len(numbers)))
    assert probes == []


def test_probes_and_gaps_come_and_go_with_the_marks() -> None:
    numbering = SwitchedNumbering(first=1)
    before, _ = _drive(numbering, 100, 0.0)
    numbering.set_marking(True, 1.0)
    during, probes = _drive(numbering, 2_000, 1.0)
    numbering.set_marking(False, 4.0)
    after, none = _drive(numbering, 2_000, 4.0)
    assert probes
    assert none == []
    assert after == list(range(after[0], after[0] + len(after)))
    assert max(before) < min(during)
    assert max(during) < after[0]


def test_the_counts_outlive_the_switch_and_an_old_echo_is_nobodys() -> None:
    numbering = SwitchedNumbering()
    numbering.set_marking(True, 0.0)
    _, first = _drive(numbering, 500, 0.0)
    numbering.set_marking(False, 1.0)
    numbering.set_marking(True, 1.0)
    _, second = _drive(numbering, 500, 1.0)
    assert set(first).isdisjoint(second)
    assert numbering.snapshot(2.0).probes_sent == len(first) + len(second)
    echoed = numbering.snapshot(2.0).probes_echoed
    numbering.probe_echoed(first[-1], 2.0)
    assert numbering.snapshot(2.0).probes_echoed == echoed
    numbering.probe_echoed(second[-1], 2.0)
    assert numbering.snapshot(2.0).probes_echoed == echoed + 1


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 80)), max_size=30))
def test_no_number_is_used_twice_however_often_it_is_switched(turns: list[tuple[bool, int]]) -> None:
    numbering, now = SwitchedNumbering(), 0.0
    numbers: list[int] = []
    for marks_leave, rounds in turns:
        numbering.set_marking(marks_leave, now)
        taken, _ = _drive(numbering, rounds, now)
        numbers += taken
        now += 1.0
    assert len(set(numbers)) == len(numbers)
