"""What comes from the kernel is read without trusting it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qosctl.supervisor.doctor.netlink import NEW_RULE, Netlink, Reply, attribute, attributes, nested
from qosctl.supervisor.doctor.scratch_netns import started


@given(st.binary(max_size=120))
def test_any_bytes_are_attributes_or_nothing(raw: bytes) -> None:
    assert all(0 <= kind < 1 << 14 for kind in attributes(raw))


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40), max_size=6))
def test_what_is_encoded_is_decoded(known: dict[int, bytes]) -> None:
    raw = b"".join(attribute(kind, value) for kind, value in known.items())
    assert attributes(raw) == known
    assert attributes(nested(7, raw)) == {7: raw}


def test_a_refusal_has_the_kernels_own_words() -> None:
    def ask() -> Reply:
        with Netlink() as here:
            return here.change(NEW_RULE, bytes([2, 0, 0, 0xB9, 0, 0, 0, 1, 0, 0, 0, 0]))

    with started("test", ask) as pending:
        reply = pending.result()
    assert reply.error
    assert "ECN bits must be 0" in reply.reason
