import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.record.replay_window import DEFAULT_WIDTH, ReplayWindow


class NaiveWindow:
    """What a window is, without any cleverness: all numbers ever seen, and the highest."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.seen: set[int] = set()

    def accepts(self, number: int) -> bool:
        top = max(self.seen, default=-1)
        return number > top or (number > top - self.width and number not in self.seen)

    def mark(self, number: int) -> None:
        self.seen.add(number)


@st.composite
def walks(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A width, and numbers that step forward, back and far, from anywhere in 64 bits."""
    width = 1 << draw(st.integers(0, 7))
    start = draw(st.sampled_from([0, 5, 1 << 48, (1 << 48) + 16, (1 << 56) - 9, (1 << 64) - 600]))
    step = st.one_of(st.integers(-3, 4), st.integers(-2 * width, 2 * width), st.integers(0, 10 * width))
    numbers = [start]
    for each in draw(st.lists(step, max_size=200)):
        numbers.append(min(max(0, numbers[-1] + each), (1 << 64) - 1))
    return width, numbers


@given(walks(), st.data())
def test_it_agrees_with_the_naive_model(walk: tuple[int, list[int]], data: st.DataObject) -> None:
    width, numbers = walk
    window, model = ReplayWindow(width), NaiveWindow(width)
    authentic = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    for number, genuine in zip(numbers, authentic, strict=True):
        accepted = model.accepts(number)
        assert window.accepts(number) == accepted
        if accepted and genuine:  # a forged record is checked and never marked
            window.mark(number)
            model.mark(number)
        assert window.top == max(model.seen, default=-1)


def test_each_number_is_accepted_once_in_any_order_within_the_width() -> None:
    window = ReplayWindow(64)
    numbers = [100 + (i * 37) % 64 for i in range(64)]
    for number in numbers:
        assert window.accepts(number)
        window.mark(number)
    assert not any(window.accepts(number) for number in numbers)


def test_the_edges_of_the_window() -> None:
    window = ReplayWindow(64)
    window.mark(1000)
    assert window.accepts(1000 - 63)
    assert not window.accepts(1000 - 64)
    assert not window.accepts(1000)
    assert window.accepts(1001)


def test_number_zero_is_new_once() -> None:
    window = ReplayWindow()
    assert window.accepts(0)
    window.mark(0)
    assert not window.accepts(0)


def test_the_default_lets_4095_records_be_overtaken() -> None:
    window = ReplayWindow()
    window.mark(DEFAULT_WIDTH)
    assert window.accepts(1)
    assert not window.accepts(0)


@pytest.mark.parametrize("width", [0, -1, 3, 100, 4095])
def test_a_width_that_is_no_power_of_two_is_an_error(width: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ReplayWindow(width)
