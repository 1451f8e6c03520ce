import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.plain import (
    EPOCH_SHIFT,
    FIRST_NUMBER,
    Numbering,
    NumbersExhaustedError,
    PlainNumbering,
    end_of_epoch,
)

calls = st.lists(st.tuples(st.sampled_from([DF, EF, Dscp.of(34)]), st.integers(0, 200)), max_size=100)


@given(calls)
def test_plain_numbers_are_consecutive_whatever_the_class(runs: list[tuple[Dscp, int]]) -> None:
    numbering: Numbering = PlainNumbering()
    taken = [n for i, (dscp, count) in enumerate(runs) for n in numbering.take(dscp, count, float(i))]
    assert taken == list(range(FIRST_NUMBER, FIRST_NUMBER + len(taken)))


def test_plain_numbers_begin_in_epoch_one_above_the_handshake() -> None:
    (number,) = PlainNumbering().take(EF, 1, 0.0)
    assert number >> EPOCH_SHIFT == 1
    assert number & 0xFFFF_FFFF_FFFF >= 16


def test_the_last_number_of_an_epoch_is_handed_out_and_the_next_is_refused() -> None:
    limit = end_of_epoch(1 << EPOCH_SHIFT)
    numbering = PlainNumbering(first=limit - 3)
    assert list(numbering.take(DF, 2, 0.0)) == [limit - 3, limit - 2]
    with pytest.raises(NumbersExhaustedError, match="epoch 1"):
        numbering.take(DF, 2, 0.0)
    assert list(numbering.take(DF, 1, 0.0)) == [limit - 1]
    with pytest.raises(NumbersExhaustedError):
        numbering.take(EF, 1, 0.0)
