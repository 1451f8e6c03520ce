"""A tunnel of an unmodified OpenVPN in user space, followed at both ends: what is inside says what is outside."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from qosctl.supervisor.devices.follow import follow

from tests.lab import Frame, Qosctl
from tests.lab.openvpn import CBC_SHA1, CBC_SHA256, CHACHA20, GCM, OpenVPN, Suite
from tests.lab.testbed import Line
from tests.lab.tunnel_end import EVERY_BYTE, LEAST_BYTES, MIXED, PORT, ROUND, End
from tests.lab.waiting import next_tick

EQUAL_BYTES = 200
FLOOD = 10_000
AEAD_BYTES = 4 + 4 + 16  # opcode and peer id, packet id, tag
HEADERS = {4: 28, 6: 48}  # IP and UDP


@pytest.fixture(autouse=True)
def _followed(ends: list[Qosctl]) -> None:
    """The tunnel followed at both ends before it is there."""
    for qosctl in ends:
        with qosctl.namespace.entered():
            assert follow(["ov*"]) == [True]
    next_tick()


@contextlib.contextmanager
def listening(line: Line) -> Iterator[None]:
    """Have somebody take what is sent at both ends, so that no ICMP message answers."""
    with contextlib.ExitStack() as stack:
        for namespace in (line.client, line.server_namespace):
            with namespace.entered():
                stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)).bind(("::", PORT))
        yield


def is_data(frame: Frame) -> bool:
    """Whether it is of the data channel, by its opcode."""
    return frame.payload[0] >> 3 == 9


def both_ends(line: Line, tunnel: OpenVPN) -> tuple[End, End]:
    return (
        End(line.client, {4: tunnel.inner4, 6: tunnel.inner6}, tunnel.sent),
        End(line.server_namespace, {4: tunnel.near4, 6: tunnel.near6}, tunnel.received),
    )


def send_every_byte(end: End, wait_for: Callable[[int], object]) -> None:
    for start in range(0, len(EVERY_BYTE), ROUND):
        end.send(EVERY_BYTE[start : start + ROUND])
        wait_for(start + ROUND)


@pytest.mark.parametrize("outer", [4, 6], ids=["outer_ipv4", "outer_ipv6"])
def test_each_tos_byte_comes_out_as_its_dscp(line: Line, outer: int) -> None:
    """From the first packet on, both inner versions, both ways, with each kind of cipher; ECN stays inside."""
    for suite in (GCM, CBC_SHA1, CBC_SHA256):
        with OpenVPN(line.topology, suite, outer=outer) as tunnel:
            for end in both_ends(line, tunnel):
                send_every_byte(end, end.wait_for)
                frames = end.framed()
                assert [(byte, f.dscp, f.ecn) for byte, f in frames if (f.dscp, f.ecn) != (byte >> 2, 0)] == []
                assert {f.family for _, f in frames} == {outer}
                assert all(f.header_checksum_right for _, f in frames)


def test_keys_change_and_marks_stay_right(line: Line) -> None:
    """Nobody has the new keys here, but with an AEAD the length tells which packet it is. Handshakes are not marked."""
    expected = [
        (AEAD_BYTES + HEADERS[version] + LEAST_BYTES + n % ROUND, byte >> 2, 0)
        for n, (version, byte) in enumerate(EVERY_BYTE)
    ]
    lengths = {length for length, _, _ in expected}
    with OpenVPN(line.topology, CHACHA20, words=("--reneg-pkts", "100")) as tunnel, listening(line):

        def seen(*, outgoing: bool) -> list[tuple[int, int, int]]:
            frames = [f for f in tunnel.frames() if f.outgoing == outgoing and is_data(f)]
            return [(len(f.payload), f.dscp, f.ecn) for f in frames if len(f.payload) in lengths]

        near, far = both_ends(line, tunnel)
        send_every_byte(near, lambda count: tunnel.wait(lambda: len(seen(outgoing=False)) >= count))
        send_every_byte(far, lambda count: tunnel.wait(lambda: len(seen(outgoing=True)) >= count))
        assert seen(outgoing=False) == seen(outgoing=True) == expected
        assert len({f.payload[0] for f in tunnel.frames() if is_data(f)}) > 2, "no keys have changed"
        assert {f.dscp for f in tunnel.frames() if not is_data(f)} == {0}


@pytest.mark.parametrize("suite", [GCM, CBC_SHA1], ids=str)
def test_classes_mixed_packet_by_packet_at_overload(line: Line, ends: list[Qosctl], suite: Suite) -> None:
    """Packets of one length, more than the tunnel carries: what is in each datagram is what its mark says."""
    with OpenVPN(line.topology, suite) as tunnel:
        for end, qosctl in zip(both_ends(line, tunnel), ends, strict=True):
            end.flood(FLOOD, EQUAL_BYTES)
            pairs = Counter((byte >> 2, record.frame.dscp) for _, byte, record in end.wait_for(FLOOD // 20 + 1))
            assert pairs.total() > FLOOD // 20
            assert {inside for inside, _ in pairs} == {dscp.value for dscp in MIXED}
            assert [pair for pair in pairs if pair[0] != pair[1]] == []
            assert qosctl.read("status")["devices"][0]["outcomes"]["ambiguous"] == 0


def test_its_own_talk_is_not_marked(line: Line) -> None:
    """Keepalives, beside packets that are, and handshakes."""
    with OpenVPN(line.topology, GCM) as tunnel:
        near, _ = both_ends(line, tunnel)

        def keepalives() -> list[int]:
            return [each.frame.dscp for each in (*tunnel.sent(), *tunnel.received()) if each.inner is None]

        for byte in (0xB8, 0x20):
            near.send([(4, byte)])
            tunnel.wait(lambda: len(keepalives()) >= 2)
        assert [record.frame.dscp for _, _, record in near.wait_for(2)] == [46, 8]
        assert set(keepalives()) == {0}
        assert {f.dscp for f in tunnel.frames() if not is_data(f)} == {0}
