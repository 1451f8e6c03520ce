"""Kinds of DPD requests: each is told from the others by its length alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.session.dpd_payload import DpdPayload
from qosctl.dtls.session.path_mtu import FLOOR_BYTES


def test_no_two_kinds_have_one_length_and_those_of_the_path_are_the_longest() -> None:
    lengths = [len(kind.encode(1)) for kind in DpdPayload]  # of the members, an alias being a second name of one
    assert len(lengths) == len(set(lengths)) == len(DpdPayload.__members__)
    assert max(lengths) == DpdPayload.PATH_MTU.value <= FLOOR_BYTES


@given(st.sampled_from(DpdPayload), st.integers(0, 2**32 - 1))
def test_what_comes_back_is_what_was_sent(kind: DpdPayload, number: int) -> None:
    assert DpdPayload.decode(kind.encode(number)) == (kind, number)


@given(st.integers(DpdPayload.PATH_MTU.value, 16_000), st.integers(0, 2**64 - 1))
def test_a_probe_of_the_path_is_as_long_as_it_says(size: int, number: int) -> None:
    payload = DpdPayload.PATH_MTU.encode(number, size)
    assert len(payload) == size
    assert DpdPayload.decode(payload) == (DpdPayload.PATH_MTU, number)


@given(st.binary(max_size=100))
def test_any_payload_is_of_one_kind_or_none(payload: bytes) -> None:
    found = DpdPayload.decode(payload)
    assert (found is None) == (len(payload) < 64 and len(payload) not in {4, 8, 12, 16})


def test_a_number_wraps_where_there_is_no_room_for_it() -> None:
    assert DpdPayload.LIVENESS.encode(2**32 + 7) == (7).to_bytes(4)
    assert DpdPayload.RECEIVER_POSITION.encode(2**64 + 7) == (7).to_bytes(8)
