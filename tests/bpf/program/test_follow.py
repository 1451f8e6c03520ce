"""Which packet is in a datagram of somebody else's tunnel: by what its task has read, and by length. Nothing is guessed."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from qosctl.bpf.abi import QUEUE_ENTRIES, REPLAY_WINDOW
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.bpf.outcome import Outcome

from tests.lab.packets import TCP, frame, ipv4
from tests.lab.tun_program import (
    IFF_VNET_HDR,
    SETTLED_S,
    TunDevice,
    TunProgram,
    dtls,
    openvpn,
    openvpn_numbered,
    stamped,
    tun_program,
)

OVERTAKES_WITHIN_S = 0.12
"""What leaves later overtakes no more (OVERTAKES_WITHIN in follow.h), with what a jiffy can add."""
AF41, CS1, DF = Dscp.parse("AF41"), Dscp.parse("CS1"), Dscp.parse("DF")
CLASSES = (EF, AF41, CS1, DF)


@pytest.fixture(name="loaded", scope="module")
def loaded_fixture() -> Iterator[TunProgram]:
    with tun_program() as made:
        yield made


@pytest.fixture
def program(loaded: TunProgram) -> TunProgram:
    loaded.begin_anew()
    return loaded


def blocks(length: int) -> int:
    """Up to whole blocks of AES."""
    return -(-length // 16) * 16


# What a packet of n bytes becomes on the wire, by the words of the RFCs and of OpenVPN's protocol.
DTLS_FORMATS = {
    "aes_gcm": lambda n: 13 + 8 + (1 + n) + 16,
    "chacha20_poly1305": lambda n: 13 + (1 + n) + 16,
    "aes_cbc_sha1": lambda n: 13 + 16 + blocks(1 + n + 20 + 1),
    "aes_cbc_sha256": lambda n: 13 + 16 + blocks(1 + n + 32 + 1),
    "aes_cbc_sha384": lambda n: 13 + 16 + blocks(1 + n + 48 + 1),
    "aes_cbc_then_sha1": lambda n: 13 + 16 + blocks(1 + n + 1) + 20,
    "aes_cbc_then_sha256": lambda n: 13 + 16 + blocks(1 + n + 1) + 32,
    "aes_cbc_then_sha384": lambda n: 13 + 16 + blocks(1 + n + 1) + 48,
}
OPENVPN_FORMATS = {
    "aead": lambda n: 4 + 4 + 16 + n,
    "aead_stub": lambda n: 4 + 4 + 16 + 1 + n,
    "aes_cbc_sha1": lambda n: 4 + 20 + 16 + blocks(4 + n + 1),
    "aes_cbc_sha256": lambda n: 4 + 32 + 16 + blocks(4 + n + 1),
    "aes_cbc_sha512": lambda n: 4 + 64 + 16 + blocks(4 + n + 1),
}
# Without a peer id (opcode 6 in place of 9) OpenVPN's are three bytes shorter.
FORMATS = (
    [pytest.param(dtls, size, 0, id=f"dtls_{name}") for name, size in DTLS_FORMATS.items()]
    + [pytest.param(openvpn, size, 0, id=f"openvpn_{name}") for name, size in OPENVPN_FORMATS.items()]
    + [pytest.param(partial(openvpn, opcode=6), size, 3, id=f"no_peer_{name}") for name, size in OPENVPN_FORMATS.items()]
)


@pytest.mark.parametrize(("datagram", "size", "less"), FORMATS)
def test_each_format_gives_each_packet_its_own_class(
    program: TunProgram, datagram: Callable[[int], bytes], size: Callable[[int], int], less: int
) -> None:
    """All paddings, one packet at a time and several before the first is sent, which OpenVPN never reads."""
    for length in range(60, 93):
        dscp = CLASSES[length % 4]
        program.tun.take(length, dscp)
        assert stamped(program.leave(datagram(size(length) - less))) == dscp.value, length
    if datagram is not dtls:
        return
    for _ in range(3):
        for n in range(10):
            program.tun.take(300, CLASSES[n % 4])
        sent = [stamped(program.leave(datagram(size(300) - less))) for _ in range(10)]
        assert sent == [CLASSES[n % 4].value for n in range(10)]


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_all_classes_and_no_ecn(program: TunProgram, inner: int, outer: int) -> None:
    for byte in range(256):
        program.tun.take(100, Dscp(byte >> 2), inner, ecn=byte & 3)
        ran = program.leave_sealed(100, version=outer)
        assert stamped(ran) == byte >> 2
        assert (ran.packet[15] if outer == 4 else ran.packet[15] >> 4) & 3 == 0


def test_what_fits_nothing_is_left_alone(program: TunProgram) -> None:
    """The program's own talk: a keepalive is as long as no packet, a handshake is no record of data."""
    program.tun.take(100)
    assert program.leave_sealed(0).outcome is Outcome.UNMATCHED
    assert program.leave_sealed(101).outcome is Outcome.UNMATCHED
    assert program.leave(b"\x16\xfe\xfd" + bytes(135)).outcome is Outcome.NOT_DATA
    assert program.leave(openvpn(124, opcode=5)).outcome is Outcome.NOT_DATA
    assert program.leave(b"\x04\0\0\0" + bytes(128)).outcome is Outcome.NOT_DATA, "WireGuard in user space"
    assert stamped(program.leave_sealed(100)) == EF.value
    assert program.leave_sealed(100).outcome is Outcome.UNMATCHED, "an entry is taken once"


def test_a_second_device_below_the_first_sees_the_same_datagram(program: TunProgram) -> None:
    """A VLAN's packets pass its parent's egress, too: they take no other packet's mark there."""
    for dscp in (EF, AF41):
        program.tun.take(100, dscp)
    for dscp in (EF, AF41):
        datagram = dtls(138)
        assert [stamped(program.leave(datagram)) for _ in range(2)] == [dscp.value] * 2


def test_a_packet_that_went_another_way_is_passed_over(program: TunProgram) -> None:
    before = program.patterns.reads()["tun0"].passed_over
    for length, dscp in ((200, CS1), (210, CS1), (100, EF), (120, AF41)):
        program.tun.take(length, dscp)
    assert stamped(program.leave_sealed(100)) == EF.value
    assert program.patterns.reads()["tun0"].passed_over == before + 2
    assert program.leave_sealed(200).outcome is Outcome.UNMATCHED
    assert stamped(program.leave_sealed(120)) == AF41.value


def test_after_tls_nothing_is_guessed(program: TunProgram) -> None:
    """Two packets of one length, one of which went over TLS: it is open which, until a length or an empty queue tells."""
    program.tun.take(100, EF)
    program.kernel.run(frame(ipv4(bytes(60), protocol=TCP)))
    program.tun.take(100, DF)
    assert program.leave_sealed(100).outcome is Outcome.AMBIGUOUS
    program.tun.take(130, CS1)
    assert stamped(program.leave_sealed(130)) == CS1.value, "only one fits"
    for dscp in CLASSES:
        program.tun.take(100, dscp)
    assert [stamped(program.leave_sealed(100)) for _ in CLASSES] == [dscp.value for dscp in CLASSES]


def test_fragments_raise_doubt_like_tls(program: TunProgram) -> None:
    program.tun.take(100, EF)
    assert program.kernel.run(frame(ipv4(bytes(60), flags_and_offset=0x2000))).outcome is Outcome.FRAGMENT
    program.tun.take(100, DF)
    assert program.leave_sealed(100).outcome is Outcome.AMBIGUOUS


def test_a_queue_that_is_never_empty_is_not_believed_for_long(program: TunProgram) -> None:
    """A packet was never sent, and nobody tells us: from then on each would have its predecessor's class."""
    program.tun.take(100, EF)
    seen = []
    for n in range(200):
        program.tun.take(100, CLASSES[n % 4])
        seen.append(program.leave_sealed(100).outcome)
    assert Outcome.STAMPED not in seen[1:], "known as soon as it reads on, and has not sent what it had read"
    assert seen[-100:] == [Outcome.AMBIGUOUS] * 100
    program.tun.take(101, AF41)
    assert stamped(program.leave_sealed(101)) == AF41.value
    program.tun.take(100, CS1)
    assert stamped(program.leave_sealed(100)) == CS1.value


@pytest.mark.parametrize("batch", [1, 10])
def test_a_record_that_is_lost_below_its_program_costs_no_other_its_class(program: TunProgram, batch: int) -> None:
    """Dropped by netfilter, say: its number is missing in the next one."""
    chance = random.Random(7)
    wrong, marked = 0, 0
    for _ in range(300):
        classes = [chance.choice(CLASSES) for _ in range(batch)]
        length = chance.choice((100, 100, 100, 140))
        for dscp in classes:
            program.tun.take(length, dscp)
        for dscp in classes:
            record = dtls(length + 38)
            if chance.random() < 0.05:
                continue
            left_with = stamped(program.leave(record))
            marked += left_with is not None
            wrong += left_with not in (None, dscp.value)
    assert wrong == 0
    assert marked > 300 * batch // 4


def test_of_openvpn_the_last_packet_is_in_a_datagram_whatever_was_lost(program: TunProgram) -> None:
    """It reads none before the one before has left, or was given up: for want of a client that has its address, say."""
    for n in range(200):
        program.tun.take(100, CLASSES[n % 4])
        if n % 5:
            assert stamped(program.leave(openvpn(124))) == CLASSES[n % 4].value
    program.tun.take(100, EF)
    assert stamped(program.leave(openvpn(124))) == EF.value
    assert program.leave(openvpn(124)).outcome is Outcome.UNMATCHED


def test_where_all_that_it_may_be_are_of_one_class_nothing_is_guessed(program: TunProgram) -> None:
    for _ in range(3):
        program.tun.take(100, EF)
    program.kernel.run(frame(ipv4(bytes(60), protocol=TCP)))
    assert [stamped(program.leave_sealed(100)) for _ in range(2)] == [EF.value] * 2


def test_who_never_sends_fills_no_memory(program: TunProgram) -> None:
    """Another thread sends, or TLS does: the queue forgets the oldest, and does not believe itself."""
    before = program.patterns.reads()["tun0"].forgotten
    for n in range(QUEUE_ENTRIES + 10):
        program.tun.take(100, CLASSES[n % 4])
    assert program.patterns.reads()["tun0"].forgotten == before + 10
    assert program.leave_sealed(100).outcome is Outcome.AMBIGUOUS


def test_another_thread_has_read_nothing(program: TunProgram) -> None:
    program.tun.take(100)
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(program.leave_sealed(100).outcome))
    thread.start()
    thread.join()
    assert found == [Outcome.NO_FLOW]


def test_a_device_that_is_not_followed_is_never_marked(program: TunProgram) -> None:
    """Also where one task has one of each: a read from the other one stands in the queue all the same."""
    other = TunDevice("other0", 1)
    try:
        program.tun.take(100, EF)
        assert stamped(program.leave_sealed(100)) == EF.value
        other.take(100, AF41)
        program.tun.take(100, CS1)
        assert program.leave_sealed(100).outcome is Outcome.NO_FLOW
        assert stamped(program.leave_sealed(100)) == CS1.value
    finally:
        other.close()


def test_a_pattern_follows_devices_to_come_until_it_is_given_up(program: TunProgram) -> None:
    program.patterns.add("vpns*")
    later = TunDevice("vpns7", 2)
    time.sleep(SETTLED_S)
    try:
        later.take(90, AF41)
        assert stamped(program.leave_sealed(90)) == AF41.value
        later.take(90, AF41)
        program.patterns.remove("vpns*")
        assert program.leave_sealed(90).outcome is Outcome.NO_FLOW
        later.take(90, AF41)
        assert program.leave_sealed(90).outcome is Outcome.NO_FLOW
    finally:
        later.close()


def test_names_match_as_a_whole(program: TunProgram) -> None:
    longer = TunDevice("tun01", 3)
    try:
        longer.take(90, AF41)
        assert program.leave_sealed(90).outcome is not Outcome.STAMPED
    finally:
        longer.close()
    assert program.patterns.all() == ["tun0"]


def test_reads_while_passtos_is_off_are_no_packets_to_come(program: TunProgram) -> None:
    control = program.kernel.state.control
    program.tun.take(100, EF)
    control.passtos = False
    assert program.leave_sealed(100).outcome is Outcome.OFF
    program.tun.take(100, AF41)
    control.passtos = True
    assert program.leave_sealed(100).outcome is Outcome.NO_FLOW, "nothing that was read before counts"
    program.tun.take(100, CS1)
    assert program.leave_sealed(100).outcome is Outcome.AMBIGUOUS, "it may have read what we have not seen"


def test_a_read_of_many_packets_is_not_taken_apart(program: TunProgram) -> None:
    """Its program splits it (IFF_VNET_HDR), and which of its packets is in which datagram nobody says."""
    program.patterns.add("batch*")
    device = TunDevice("batch0", 4, IFF_VNET_HDR)
    time.sleep(SETTLED_S)
    try:
        device.send_batch(3, 100)
        assert len(device.read()) > 300
        assert program.patterns.reads()["batch*"].batches == 1
        assert program.leave_sealed(128).outcome is Outcome.UNMATCHED
    finally:
        device.close()
        program.patterns.remove("batch*")


def test_a_batch_of_datagrams_is_left_alone(program: TunProgram) -> None:
    program.tun.take(100, EF)
    assert program.leave(dtls(138), gso_segs=2).outcome is Outcome.UNMATCHED


def test_policy_and_priority_are_those_of_all_tunnels(program: TunProgram) -> None:
    table = program.kernel.state.policy
    table.write(Policy.identity().replaced({EF: Rule(AF41, 6), CS1: Rule(None)}))
    try:
        program.tun.take(100, EF)
        ran = program.leave_sealed(100)
        assert (stamped(ran), ran.priority) == (AF41.value, 6)
        program.tun.take(100, CS1)
        assert program.leave_sealed(100).outcome is Outcome.POLICY_LEAVE
    finally:
        table.write(Policy.identity())


def test_a_capture_of_the_device_reads_nothing(program: TunProgram) -> None:
    """A packet socket passes the same tracepoint, with the same device."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300) as capture:
        capture.bind(("tun0", 0x0003))
        program.tun.take(100, EF)
        assert len(capture.recv(2048)) == 100
        assert stamped(program.leave_sealed(100)) == EF.value
        assert program.leave_sealed(100).outcome is Outcome.UNMATCHED


def test_a_child_has_a_queue_of_its_own(program: TunProgram) -> None:
    program.tun.take(100, EF)
    child = os.fork()
    if child == 0:
        os._exit(0 if program.leave_sealed(100).outcome is Outcome.NO_FLOW else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stamped(program.leave_sealed(100)) == EF.value


def test_two_ciphers_of_one_program_never_give_a_wrong_class(program: TunProgram) -> None:
    """An OpenVPN server whose clients have different ones: what is left behind by one is not taken for the other's."""
    chance = random.Random(14)
    sizes: list[Callable[[int], int]] = [OPENVPN_FORMATS["aead"], OPENVPN_FORMATS["aes_cbc_sha1"]]
    wrong: list[tuple[int, Dscp, int]] = []
    marked = 0
    for n in range(2000):
        length, dscp, size = chance.randrange(60, 200), chance.choice(CLASSES), sizes[n % 7 % 2]
        program.tun.take(length, dscp)
        left_with = stamped(program.leave(openvpn(size(length))))
        marked += left_with is not None
        if left_with not in (None, dscp.value):
            wrong.append((n, dscp, left_with))
    assert wrong == []
    assert marked > 200


def beyond_window(program: TunProgram, send: Callable[[Dscp], object], classes: Sequence[Dscp]) -> int:
    """Send these, with a pause behind them, and return how many of them were counted."""
    before = program.patterns.reads()["tun0"].beyond_window
    for dscp in classes:
        send(dscp)
    found = program.patterns.reads()["tun0"].beyond_window - before
    time.sleep(OVERTAKES_WITHIN_S)
    return found


@pytest.mark.parametrize(
    ("kind", "sized"),
    [(dtls, DTLS_FORMATS["aes_gcm"]), (openvpn_numbered, OPENVPN_FORMATS["aead"])],
    ids=["dtls", "openvpn"],
)
def test_marks_that_may_overtake_beyond_a_window_are_counted(
    program: TunProgram, kind: Callable[[int], bytes], sized: Callable[[int], int]
) -> None:
    def send(dscp: Dscp) -> None:
        program.tun.take(100, dscp)
        assert stamped(program.leave(kind(sized(100)))) == dscp.value

    send(DF)  # from which the format is known
    time.sleep(OVERTAKES_WITHIN_S)
    assert beyond_window(program, send, [DF] * (REPLAY_WINDOW - 1) + [EF]) == 0
    for bulk in (REPLAY_WINDOW, REPLAY_WINDOW + 9):  # a busy machine may take too long for it, but not each time
        assert any(beyond_window(program, send, [DF] * bulk + [EF]) == 1 for _ in range(50))
    assert beyond_window(program, send, [DF] * (2 * REPLAY_WINDOW)) == 0
    for dscp in [DF] * REPLAY_WINDOW:
        send(dscp)
    time.sleep(OVERTAKES_WITHIN_S)
    assert beyond_window(program, send, [EF]) == 0, "who leaves so much later overtakes none"
