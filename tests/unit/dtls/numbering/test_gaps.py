"""The reserve of numbers: each leaves it once, and from where it is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.numbering.allocator import Allocator
from qosctl.dtls.numbering.gaps import MAX_BLOCKS, GapReserve

blocks = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=60)


def filled(sizes: list[tuple[int, int]]) -> tuple[GapReserve, set[int]]:
    reserve, free, at = GapReserve(), set[int](), 0
    for space, size in sizes:
        at += space
        reserve.add(at, at + size)
        free.update(range(at, at + size))
        at += size
    return reserve, free


def reserve_of(*starts: int, size: int = 4) -> GapReserve:
    made = GapReserve()
    for start in starts:
        made.add(start, start + size)
    return made


@given(blocks, st.data())
def test_each_number_leaves_once_and_is_where_it_was_asked_for(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    reserve, free = filled(sizes)
    top = max(free) + 5
    for _ in range(30):
        lowest = data.draw(st.integers(0, top))
        wished = lowest + data.draw(st.integers(0, 70))
        match data.draw(st.integers(0, 2)):
            case 0:
                number = reserve.one(lowest, wished)
                got = [] if number is None else [number]
                inside = [each for each in free if lowest <= each <= wished]
                above = [each for each in free if each > wished]
                assert got == ([max(inside)] if inside else [min(above)] if above else [])
            case 1:
                count = data.draw(st.integers(1, 30))
                got = reserve.several(lowest, wished, count)
                assert got == sorted(got) and len(got) <= count
                assert all(each >= lowest for each in got)
            case _:
                number = reserve.lowest(lowest, wished, leave=data.draw(st.integers(0, 1)))
                got = [] if number is None else [number]
                assert all(lowest <= each <= wished for each in got)
        assert set(got) <= free and len(set(got)) == len(got)
        free -= set(got)
        assert reserve.left == len(free)
        assert reserve.above(lowest) == sum(each > lowest for each in free)


def test_one_lies_next_below_the_wish_and_above_it_only_where_there_is_none() -> None:
    assert reserve_of(70, 110, 200).one(60, 100) == 73
    assert reserve_of(70, 110, 200).one(72, 72) == 72
    assert reserve_of(70, 110, 200).one(80, 100) == 110
    assert reserve_of(70).one(80, 100) is None


def test_several_end_at_the_wish_and_leave_one_of_each_block() -> None:
    reserve = reserve_of(70, 90, 110, 130)
    assert reserve.several(60, 100, 5) == [72, 73, 91, 92, 93]
    assert reserve.several(60, 100, 3) == [71, 111, 112]
    assert reserve.one(60, 100) == 90


def test_probes_take_the_lowest() -> None:
    reserve = reserve_of(70, 90)
    assert reserve.lowest(60, 100, leave=1) == 70
    assert reserve.lowest(72, 100, leave=1) == 72
    assert reserve.lowest(80, 85) is None
    assert reserve.has(80, 90) and not reserve.has(80, 89)


def test_what_the_receiver_is_past_is_forgotten() -> None:
    reserve = reserve_of(70, 90)
    reserve.forget_below(80)
    assert reserve.left == 4 and reserve.one(0, 80) == 90


def test_a_reserve_is_bounded() -> None:
    reserve = GapReserve()
    for number in range(0, 3 * 10 * MAX_BLOCKS, 10):
        reserve.add(number, number + 2)
    assert reserve.left <= 2 * MAX_BLOCKS


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.integers(1, 70), st.booleans()), max_size=40))
def test_new_numbers_ascend_and_what_lies_between_them_is_in_reserve(steps: list[tuple[float, int, bool]]) -> None:
    allocator, used = Allocator(1), list[int]()
    for share, count, gaps in steps:
        allocator.leave(share)
        used += allocator.fresh(count, gaps=gaps)
    assert used == sorted(set(used))
    assert allocator.newest == len(used) + allocator.gaps.left


def test_a_share_of_the_numbers_is_left_free() -> None:
    allocator = Allocator(1)
    assert list(allocator.fresh(100)) == list(range(1, 101))
    for share in (0.25, 0.5, 1.0):
        before = allocator.gaps.left
        allocator.leave(share)
        allocator.fresh(1600)
        assert abs(allocator.gaps.left - before - share * 1600) <= 16


def test_a_share_that_is_told_again_before_each_record_leaves_as_many_numbers_free() -> None:
    """An echo tells it; one that came when a gap was due made the allocator begin a run anew."""
    allocator = Allocator(1)
    for _ in range(1600):
        allocator.leave(0.25)
        allocator.fresh(1)
    assert abs(allocator.gaps.left - 400) <= 16
