"""The class in a packet's own hash, from a tunnel's device to the one it leaves by: right, and of a followed one alone."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator

import pytest
from qosctl.bpf.abi import CARRIED_CODES, CARRIERS, PORT_ELSEWHERE, UDP_PORTS
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.kernel import syscall
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps import counters
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.bpf.outcome import Outcome

from tests.lab.carrier_program import INNER, PORT, CarrierProgram, carried_hash, carrier_program, datagram, layout, message
from tests.lab.packets import ICMPV6, MORE_FRAGMENTS, TCP, frame, ipv4, ipv6
from tests.lab.program import changed_sources, sk_buff

AF41, CS1 = Dscp.parse("AF41"), Dscp.parse("CS1")
MARKED = (Outcome.STAMPED, Outcome.UNCHANGED)


@pytest.fixture(name="loaded", scope="module")
def loaded_fixture() -> Iterator[CarrierProgram]:
    with pytest.MonkeyPatch.context() as any_device:
        any_device.setattr(kernel_layout, "wireguard", layout)
        with carrier_program() as made:
            yield made


@pytest.fixture
def program(loaded: CarrierProgram) -> CarrierProgram:
    loaded.send(datagram(0))  # so that the port is known
    return loaded


@pytest.mark.parametrize("version", [4, 6])
def test_all_classes_and_no_ecn(program: CarrierProgram, version: int) -> None:
    for byte in range(256):
        left = program.send(datagram(byte, version=version))
        assert (left.dscp, left.ecn) == (byte >> 2, 0)
        assert left.outcome in MARKED


def test_the_class_is_right_in_every_flow(program: CarrierProgram) -> None:
    for flow in range(1000):
        left = program.send(datagram(flow % 64 << 2, destination=1024 + flow))
        assert (left.dscp, left.outcome in MARKED) == (flow % 64, True)


def test_a_first_packet_is_marked_already(program: CarrierProgram) -> None:
    """Of whatever is known, nothing has to be known before it."""
    program.carried.forget(program.index)
    assert program.send(datagram(EF.value << 2)).dscp == EF.value


def test_messages_that_carry_no_packet_are_left_alone(program: CarrierProgram) -> None:
    """A handshake, an answer to it, a cookie; a keepalive, which is as long as nothing; what only begins like data."""
    for payload in (
        message(bytes(144), kind=1), message(bytes(88), kind=2), message(bytes(60), kind=3), message(bytes(28)),
        message(kind=5), message(reserved=b"\0\0\1"), message(reserved=b"\1\0\0"), b"", b"\4\0\0",
    ):  # fmt: skip
        left = program.send(datagram(EF.value << 2, payload=payload))
        assert (left.dscp, left.outcome) == (0, Outcome.NOT_DATA)
    assert program.send(datagram(EF.value << 2, payload=message(bytes(29)))).dscp == EF.value


def test_what_is_no_datagram_has_the_class_in_its_hash_too(program: CarrierProgram) -> None:
    """ICMP, TCP and fragments go into a tunnel like all else; here they come out as they are, and are nobody's."""
    before = program.inner_counters().outer[EF].packets
    byte = EF.value << 2
    for packet, outcome in (
        (ipv4(bytes(64), protocol=1, traffic_class=byte), Outcome.NOT_UDP),
        (ipv4(bytes(64), protocol=TCP, traffic_class=byte), Outcome.NOT_UDP),
        (ipv4(bytes(64), flags_and_offset=MORE_FRAGMENTS | 5, traffic_class=byte), Outcome.FRAGMENT),
        (ipv6(bytes(64), next_header=ICMPV6, traffic_class=byte), Outcome.NOT_UDP),
    ):
        assert program.send(packet).outcome is outcome
    assert program.inner_counters().outer[EF].packets == before + 4


def test_another_port_is_another_program(program: CarrierProgram) -> None:
    """A device that is not followed, through whose tunnel this one goes: the hash is one of ours, the port is not."""
    left = program.send(datagram(EF.value << 2, source=PORT + 1))
    assert (left.dscp, left.outcome) == (0, Outcome.NO_FLOW)


def test_a_hash_that_nobody_has_given_is_no_class(program: CarrierProgram) -> None:
    """From the right port, a data message: of a device, say, that has taken the port and is not followed."""
    for flow in range(1000):
        left = program.send(datagram(EF.value << 2, destination=1024 + flow), past_the_tunnel=True)
        assert (left.dscp, left.outcome) == (EF.value, Outcome.NO_MARK)


@pytest.fixture(name="by_hash", scope="module")
def by_hash_fixture(loaded: CarrierProgram) -> Iterator[Callable[[int], Outcome]]:
    """The egress program over a message of data that has any hash."""
    with changed_sources() as sources:
        source = (sources / "egress.c").read_text()
        first = "\tbpf_set_hash(skb, skb->mark);\n\tmark_and_count(skb);"
        (sources / "egress.c").write_text(source.replace("\tmark_and_count(skb);", first))
        program = BccLoader(sources).load(folder(), pins_of(loaded.outer_index).path, ethernet=True)
    packet = frame(datagram(0))

    def run(value: int) -> Outcome:
        before = counters.read(loaded.outer_counters).outcomes
        syscall.program_test_run(program, packet, sk_buff(mark=value))
        after = counters.read(loaded.outer_counters).outcomes
        (outcome,) = (o for o in Outcome if after[o] != before[o])
        return outcome

    yield run
    os.close(program)


def test_a_code_counts_for_as_long_as_a_packet_may_wait(program: CarrierProgram, by_hash: Callable[[int], Outcome]) -> None:
    """The check alone would let one flow of another device in 16,384 pass; nobody gave it this code lately."""
    given = given_at(program)
    now = (time.monotonic_ns() >> 27) - 1  # the program's clock is a jiffy behind
    for flow, dscp in itertools.product((0, 1, 2047, 4095), (0, 1, 46, 63)):
        code, value = flow << 6 | dscp, carried_hash(flow, dscp, program.index)
        for age, marked in ((0, True), (880, True), (910, False), (40_000, False)):
            given[code] = now - age & 0xFFFF
            assert (by_hash(value) in MARKED) is marked, (flow, dscp, age)
        given[code] = 0
        assert by_hash(value) is Outcome.NO_MARK
        given[code] = now & 0xFFFF
        assert by_hash(carried_hash(flow, dscp, program.index + 1)) is Outcome.NO_MARK, "another device's"


def test_of_all_hashes_those_alone_pass_that_were_given(program: CarrierProgram, by_hash: Callable[[int], Outcome]) -> None:
    """As the hashes of an unfollowed device's flows are: all over the 32 bits."""
    given = given_at(program)
    chance = random.Random(14)
    given[:] = memoryview(array("H", bytes(2 * CARRIED_CODES)))
    assert {by_hash(chance.getrandbits(32)) for _ in range(5_000)} == {Outcome.NO_MARK}
    codes = {chance.randrange(CARRIED_CODES) for _ in range(200)}
    for code in codes:
        given[code] = (time.monotonic_ns() >> 27) - 1 & 0xFFFF
    values = [carried_hash(code >> 6, code & 63, program.index) for code in codes]
    assert all(by_hash(value) in MARKED for value in values)
    assert all(by_hash(value ^ 1 << chance.randrange(32)) is Outcome.NO_MARK for value in values)


def given_at(program: CarrierProgram) -> memoryview:
    """When each code was given last."""
    return program.carried._words.cast("B")[4 * (UDP_PORTS + CARRIERS) :].cast("H")


def test_flows_stay_apart_in_the_bits_that_queues_look_at() -> None:
    """fq_codel and CAKE have 1,024 queues each, by the upper and by the lower bits; one flow's class stays together."""
    hashes = [carried_hash(flow, EF.value, 7) for flow in range(1 << 12)]
    assert len({value >> 22 for value in hashes}) == 1024
    assert len({value & 1023 for value in hashes}) > 950


def test_the_port_is_that_of_the_device_at_each_packet(program: CarrierProgram) -> None:
    """Another port counts from its first packet on; and the old one, which somebody may take now, not any more."""
    packet = datagram(EF.value << 2)
    assert program.send(packet).dscp == EF.value
    subprocess.run(["ip", "link", "set", INNER, "mtu", str(PORT + 7)], check=True)
    try:
        assert program.send(datagram(AF41.value << 2, source=PORT + 7)).dscp == AF41.value
        assert program.carried.port_of(program.index) == PORT + 7
        assert program.send(packet).outcome is Outcome.NO_FLOW
    finally:
        subprocess.run(["ip", "link", "set", INNER, "mtu", str(PORT)], check=True)
    assert program.send(packet).dscp == EF.value


def test_a_device_that_is_not_followed_any_more_is_forgotten_at_once(program: CarrierProgram) -> None:
    program.carried.forget(program.index)
    assert program.send(datagram(EF.value << 2), past_the_tunnel=True).outcome is Outcome.NO_FLOW


def test_while_passtos_is_off_nothing_is_touched(program: CarrierProgram) -> None:
    before = program.inner_counters()
    program.state.control.passtos = False
    try:
        left = program.send(datagram(EF.value << 2))
        assert (left.dscp, left.outcome) == (0, Outcome.OFF)
        assert program.inner_counters() == before
    finally:
        program.state.control.passtos = True
    assert program.send(datagram(EF.value << 2)).dscp == EF.value


def test_the_policy_is_that_of_all_tunnels(program: CarrierProgram) -> None:
    table = program.state.policy
    table.write(Policy.identity().replaced({EF: Rule(AF41), CS1: Rule(None)}))
    try:
        assert program.send(datagram(EF.value << 2)).dscp == AF41.value
        assert program.send(datagram(CS1.value << 2)).outcome is Outcome.POLICY_LEAVE
    finally:
        table.write(Policy.identity())


def test_the_inner_side_counts_by_inner_class(program: CarrierProgram) -> None:
    before = program.inner_counters().outer[CS1].packets
    for _ in range(3):
        program.send(datagram(CS1.value << 2))
    assert program.inner_counters().outer[CS1].packets == before + 3
    assert PORT_ELSEWHERE > program.carried.port_of(program.index) == PORT  # type: ignore[operator]
