"""Tunnels of unmodified openconnect and ocserv, followed: what is inside says what is outside, both ways, on the wire."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from qosctl.supervisor.devices.follow import follow, following, unfollow_all

from tests.lab import Ocserv, Qosctl
from tests.lab.openconnect import Openconnect
from tests.lab.testbed import Line
from tests.lab.tun_program import SETTLED_S
from tests.lab.tunnel_end import EVERY_BYTE, MIXED, ROUND, End
from tests.lab.waiting import next_tick, until
from tests.lab.wiretap import Wiretap

CLIENTS, WORKERS = "oc*", "vpns*"
BOTH = pytest.mark.parametrize("outer", [4, 6], ids=["outer_ipv4", "outer_ipv6"])
EQUAL_BYTES = 200
FLOOD = 10_000


@contextlib.contextmanager
def tunnel(line: Line, tap: Wiretap, outer: int = 4) -> Iterator[tuple[End, End]]:
    """Openconnect over IP version `outer`; yields the client's end and the server's."""
    with Openconnect(line.client, line.server, line.topology.server_address(outer)) as openconnect:
        said = line.client.run(["ip", "-o", "addr", "show", "dev", openconnect.device, "scope", "global"]).stdout
        near = {4 if words[2] == "inet" else 6: words[3].partition("/")[0] for words in map(str.split, said.splitlines())}
        line.client.run(["ip", "route", "replace", "fd77::/64", "dev", openconnect.device])
        yield (
            End(line.client, {4: Ocserv.inner4, 6: Ocserv.inner6}, tap.sent),
            End(line.server_namespace, near, tap.received),
        )


@pytest.fixture(name="followed")
def followed_fixture(ends: list[Qosctl]) -> list[Qosctl]:
    """The tunnels followed before they are there."""
    for qosctl, pattern in zip(ends, (CLIENTS, WORKERS), strict=True):
        with qosctl.namespace.entered():
            assert follow([pattern]) == [True]
    next_tick()
    return ends


@BOTH
@pytest.mark.usefixtures("followed")
def test_each_tos_byte_comes_out_as_its_dscp(line: Line, tap: Wiretap, outer: int) -> None:
    """From the first packet on, both inner versions, both ways; ECN stays inside."""
    with tunnel(line, tap, outer) as ends:
        for end in ends:
            for start in range(0, len(EVERY_BYTE), ROUND):
                end.send(EVERY_BYTE[start : start + ROUND])
                end.wait_for(start + ROUND)
            frames = end.framed()
            assert [(byte, f.dscp, f.ecn) for byte, f in frames if (f.dscp, f.ecn) != (byte >> 2, 0)] == []
            assert {f.family for _, f in frames} == {outer}
            assert all(f.header_checksum_right for _, f in frames)


@pytest.mark.usefixtures("followed")
def test_classes_mixed_packet_by_packet_at_overload(line: Line, tap: Wiretap) -> None:
    """Packets of one length, more than the tunnel carries: what is in each record is what its mark says."""
    with tunnel(line, tap) as ends:
        for end, qosctl in zip(ends, (line.qosctl, Qosctl(line.server_namespace)), strict=True):
            end.flood(FLOOD, EQUAL_BYTES)
            pairs = Counter((byte >> 2, record.frame.dscp) for _, byte, record in end.carried())
            assert pairs.total() > FLOOD // 20
            assert {inside for inside, _ in pairs} == {dscp.value for dscp in MIXED}
            assert [pair for pair in pairs if pair[0] != pair[1]] == []
            ambiguous = qosctl.read("status")["devices"][0]["outcomes"]["ambiguous"]
            assert ambiguous < pairs.total() // 100, "left alone, as when something goes over TLS meanwhile"


def test_only_what_is_followed_is_marked_and_only_while_it_is(line: Line, tap: Wiretap, ends: list[Qosctl]) -> None:
    """Follow and unfollow while the programs run; passtos off stops all."""
    every = [(4, dscp.value << 2) for dscp in MIXED] * 4
    each = {dscp.value for dscp in MIXED}

    def marks(end: End) -> set[int]:
        before = len(end.carried())
        end.send(every)
        return {record.frame.dscp for _, _, record in end.wait_for(len(every), before)}

    up, down = ends
    with tunnel(line, tap) as (near, far):
        assert (marks(near), marks(far)) == ({0}, {0})
        said = up("follow", "oc0").stdout + down("follow", "vpns0", "vpns9*").stdout
        assert said == (
            "oc0: followed\nvpns0: followed\nvpns9*: followed, no such device yet\n"
            "WireGuard devices to come are followed while `qosctl supervise` runs, or once this command is repeated\n"
        )
        time.sleep(SETTLED_S)
        assert (marks(near), marks(far)) == (each, each)
        up("passtos", "off")
        assert (marks(near), marks(far)) == ({0}, each)
        assert down("unfollow", "vpns0").stdout == "vpns0: not followed any more\n"
        assert (marks(near), marks(far)) == ({0}, {0})


@pytest.mark.usefixtures("followed")
def test_who_comes_again_is_followed_from_the_first_packet_on(line: Line, tap: Wiretap) -> None:
    """The program ends, its device with it; the next one has another worker, another port, and the same marks."""
    for _ in range(2):
        tap.forget()
        with tunnel(line, tap) as ends:
            for end in ends:
                end.send([(4, 0xB8)] * 3)
                assert [record.frame.dscp for _, _, record in end.wait_for(3)] == [46] * 3
    assert [p["devices"] for p in line.qosctl.read("status")["following"]["patterns"]] == [[]]


@contextlib.contextmanager
def unanswered_neighbour(line: Line) -> Iterator[None]:
    """The client has to ask for its router's address, and gets no answer before the block ends."""
    answers = f"net.ipv4.conf.{line.topology.router_client_if}.arp_ignore"
    line.router.sysctl(answers, "8")
    try:
        line.client.run(["ip", "neigh", "flush", "all"])
        yield
    finally:
        line.router.sysctl(answers, "0")


def packets_read(line: Line) -> int:
    """How many the program at the client's end has read from its device."""
    with line.client.entered():
        return sum(each.reads.packets for each in following().patterns)


@pytest.mark.usefixtures("followed")
def test_a_datagram_that_waited_for_its_neighbour_takes_no_mark(line: Line, tap: Wiretap) -> None:
    """It leaves in a softirq, in the middle of whatever task: none of that task's packets is in it."""
    with tunnel(line, tap) as (near, _):
        with unanswered_neighbour(line):
            before = packets_read(line)
            near.send([(4, 0xB8)] * 3, EQUAL_BYTES)
            until(lambda: packets_read(line) >= before + 3)  # so two have been sent, at least
        waited = near.wait_for(3)
        assert {record.frame.dscp for _, _, record in waited} <= {0, 46}
        assert 0 in {record.frame.dscp for _, _, record in waited}, "none has waited"
        near.send([(4, 0x20), (4, 0xB8), (4, 0)])
        later = near.wait_for(3, 3)
        assert [record.frame.dscp for _, _, record in later] == [0x20 >> 2, 46, 0]
        for _ in range(20):
            before = len(near.carried())
            line.client.run(["ip", "neigh", "flush", "all"])
            near.send([(4, dscp.value << 2) for dscp in MIXED] * 8, EQUAL_BYTES)
            frames = near.wait_for(8 * len(MIXED), before)
            assert [(byte, r.frame.dscp) for _, byte, r in frames if r.frame.dscp not in (0, byte >> 2)] == []


def test_giving_all_up_leaves_nothing(line: Line, ends: list[Qosctl]) -> None:
    """The traces that each test is held to are of before the attach; here the program is the one of before, too."""
    tags = []
    for act in (list, lambda: follow([CLIENTS]), unfollow_all):
        with line.client.entered():
            act()
        tags.append(ends[0].read("status")["devices"][0]["program"]["tag"])
    assert tags[0] == tags[2] != tags[1]
