from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.packets.inner_header import dscp_of
from qosctl.dtls.packets.priority import PriorityQueue, by_class
from qosctl.dtls.urgency import rank

LE, CS1, AF41, CS6 = (Dscp.parse(name) for name in ("LE", "CS1", "AF41", "CS6"))


def packet(dscp: Dscp, tag: int = 0) -> bytes:
    return bytes([0x45, dscp.value << 2]) + bytes(18) + tag.to_bytes(4)


def test_who_goes_first() -> None:
    assert sorted([DF, LE, EF, CS1, CS6, AF41], key=rank) == [CS6, EF, AF41, DF, CS1, LE]
    assert len({rank(dscp) for dscp in Dscp.all()}) == 64


packets = st.lists(st.builds(packet, st.sampled_from([DF, EF, LE, AF41]), st.integers(0, 1 << 20)), max_size=60)


@given(packets)
def test_classes_are_apart_and_their_packets_in_order(inner: list[bytes]) -> None:
    found = by_class(inner)
    assert [dscp for dscp, _ in found] == sorted({dscp_of(each) for each in inner}, key=rank)
    for dscp, members in found:
        assert members == [each for each in inner if dscp_of(each) is dscp]


@given(st.lists(st.one_of(packets, st.integers(0, 20)), max_size=12))
def test_what_is_held_leaves_by_urgency_in_order_within_a_class_and_the_least_urgent_is_lost(
    steps: list[list[bytes] | int],
) -> None:
    held, model = PriorityQueue(20), dict[Dscp, list[bytes]]()
    for step in steps:
        if isinstance(step, int):
            expected = [each for dscp in sorted(model, key=rank) for each in model[dscp]][:step]
            assert held.take(step) == by_class(expected)
            for each in expected:
                model[dscp_of(each)].remove(each)
            continue
        for dscp, members in by_class(step):
            model.setdefault(dscp, []).extend(members)
            over = max(0, sum(map(len, model.values())) - 20)
            assert held.add(dscp, members) == over
            for _ in range(over):
                model[max((each for each in model if model[each]), key=rank)].pop()
        assert len(held) == sum(map(len, model.values())) <= 20


def test_a_flood_of_bulk_takes_no_place_from_a_call() -> None:
    held = PriorityQueue(10)
    assert held.add(EF, [packet(EF, tag) for tag in range(3)]) == 0
    assert held.add(DF, [packet(DF, tag) for tag in range(30)]) == 23
    assert held.add(EF, [packet(EF, 3)]) == 1
    assert held.take(100) == [(EF, [packet(EF, tag) for tag in range(4)]), (DF, [packet(DF, tag) for tag in range(6)])]
