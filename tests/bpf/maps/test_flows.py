"""The flow table: what flows.py enters, the program finds, and nothing else."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qosctl.bpf.abi import FLOW_PROBES, FLOW_SLOTS
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.maps.flow_key import FlowKey, home_of
from qosctl.bpf.outcome import Outcome

from tests.lab import packets
from tests.lab.program import FLOW4, FLOW6, Kernel, kernel

_PORTS = range(1024, 65536)
_PORT_PAIR = struct.Struct("!HH")


@pytest.fixture(scope="module")
def loaded() -> Iterator[Kernel]:
    with kernel() as loaded:
        yield loaded


@functools.cache
def crowd() -> list[FlowKey]:
    """One more flow than fits whose search begins at one and the same slot. Only who runs these tests looks for them."""
    wanted = FlowKey((packets.CLIENT4, _PORTS[0]), FLOW4.remote).home
    found = []
    for third in range(256):
        address = f"10.77.{third}.1"
        addresses = FlowKey((address, 0), FLOW4.remote).pack()[: -_PORT_PAIR.size]
        for port in _PORTS[::7]:
            if home_of(addresses + _PORT_PAIR.pack(port, FLOW4.remote[1])) == wanted:
                found.append(FlowKey((address, port), FLOW4.remote))
                if len(found) == FLOW_PROBES + 1:
                    return found
    raise AssertionError("the hash spreads better than this test believes")


def test_the_crowd_is_one() -> None:
    assert {key.home for key in crowd()} == {FlowKey((packets.CLIENT4, _PORTS[0]), FLOW4.remote).home}


def finds(loaded: Kernel, key: FlowKey) -> bool:
    payload = packets.udp(packets.record(1, b"x" * 40), source=key.local[1], destination=key.remote[1])
    packet = packets.frame(packets.ipv4(payload, source=key.local[0], destination=key.remote[0]))
    return loaded.run(packet).outcome is not Outcome.NO_FLOW


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=12))
def test_the_program_finds_what_was_entered_whatever_came_and_went_beside_it(
    loaded: Kernel, steps: list[tuple[bool, int]]
) -> None:
    flows = loaded.state.flows
    entered: set[FlowKey] = set()
    for add, which in steps:
        key = crowd()[which]
        if add:
            flows.add(key, loaded.ring)
            entered.add(key)
        else:
            assert flows.remove(key) == (key in entered)
            entered.discard(key)
        assert {key for key in crowd()[:6] if finds(loaded, key)} == entered
        assert set(flows.keys()) == entered | {FLOW4, FLOW6}
    for key in entered:
        flows.remove(key)


def test_a_flow_that_finds_no_slot_near_its_home_is_refused_and_the_others_stay(loaded: Kernel) -> None:
    flows = loaded.state.flows
    *fitting, last = crowd()
    try:
        for key in fitting:
            flows.add(key, loaded.ring)
        with pytest.raises(RefusedError, match="full near"):
            flows.add(last, loaded.ring)
        assert [finds(loaded, key) for key in crowd()] == [True] * FLOW_PROBES + [False]
    finally:
        for key in fitting:
            flows.remove(key)


def test_a_table_with_nothing_in_it_is_as_it_was_made(loaded: Kernel) -> None:
    flows = loaded.state.flows
    for key in crowd()[:5]:
        flows.add(key, loaded.ring)
    for key in crowd()[:5]:
        flows.remove(key)
    occupied = {FLOW4.home, FLOW6.home}
    assert all(flows._state(at).value == 0 for at in range(FLOW_SLOTS) if at not in occupied)
