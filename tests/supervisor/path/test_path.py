"""The real command over a real chain of routers, each doing one of the things that networks do to marks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import select
import socket
import subprocess
import time
from typing import Any

import pytest

from tests.lab import Capture, Qosctl
from tests.supervisor.path.chain import HOPS, ROUTERS, Chain

PORT = 4443
BLEACH = ("ip dscp set cs0", "ip6 dscp set cs0")
CLEAR_TOP = tuple(
    f"{ip} dscp {value:#04x} {ip} dscp set {value & 7:#04x} accept" for ip in ("ip", "ip6") for value in range(8, 64)
)
TOP_TO_ONE = tuple(
    f"{ip} dscp {value:#04x} {ip} dscp set {value & 7 | 8:#04x} accept" for ip in ("ip", "ip6") for value in range(64)
)
TO_AF41 = ("ip dscp set af41", "ip6 dscp set af41")
NO_ICMP = ("ip protocol icmp drop", "icmpv6 type { time-exceeded, destination-unreachable } drop")


def ask(way: Chain, *words: str, code: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """Run the command for both families at once; return what each came to."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda family: run(way, family, *words), (4, 6)))
    assert [one.returncode for one in done] == [code, code], done
    return [(4, json.loads(done[0].stdout)), (6, json.loads(done[1].stdout))]


def run(way: Chain, family: int, *words: str) -> subprocess.CompletedProcess[str]:
    return Qosctl(way.start)("path", way.address(HOPS, family), "--port", str(PORT), *words, "--json", check=False)


def standings(said: dict[str, Any]) -> list[str]:
    return [hop["standing"] for hop in said["hops"]]


def arrived(said: dict[str, Any]) -> list[str | None]:
    return [hop["arrived"] and hop["arrived"]["dscp"] for hop in said["hops"]]


def test_a_mark_that_is_kept_is_seen_at_all_hops_and_at_the_host(way: Chain) -> None:
    started = time.monotonic()
    both = ask(way)
    took = time.monotonic() - started
    for family, said in both:
        assert arrived(said) == ["EF"] * HOPS
        assert standings(said) == ["kept"] * HOPS
        assert [hop["address"] for hop in said["hops"]] == [way.address(hop, family) for hop in range(1, HOPS + 1)]
        assert said["reached"]
        assert said["changes"] == []
        assert took < 15


@pytest.mark.parametrize(
    ("rules", "dscp", "becomes", "pattern"),
    [
        (BLEACH, "EF", "DF", "bleached"),
        (CLEAR_TOP, "EF", "6", "precedence_bleached"),
        (CLEAR_TOP, "AF41", "2", "precedence_bleached"),
        (TOP_TO_ONE, "EF", "AF13", "precedence_remarked"),
        (TO_AF41, "EF", "AF41", "remarked"),
    ],
)
def test_the_router_that_changes_the_mark_is_named_with_its_habit(
    way: Chain, rules: tuple[str, ...], dscp: str, becomes: str, pattern: str
) -> None:
    with way.rules(3, *rules):
        both = ask(way, "--dscp", dscp, code=2)
    for family, said in both:
        assert arrived(said) == [dscp] * 3 + [becomes] * 5
        assert standings(said) == ["kept"] * 3 + ["changed here"] + ["changed before"] * 4
        assert said["changes"] == [
            {"after_hop": 3, "seen_at_hop": 4, "silent_between": 0, "from": dscp, "to": becomes, "pattern": pattern}
        ]
        assert f"between hop 3 ({way.address(3, family)}) and hop 4" in said["summary"]


def test_a_router_that_changes_what_it_receives_quotes_the_change_itself(way: Chain) -> None:
    with way.rules(3, *BLEACH, hook="prerouting"):
        both = ask(way, code=2)
    for _family, said in both:
        assert standings(said) == ["kept"] * 2 + ["changed here"] + ["changed before"] * 5


def test_two_changes_on_one_way_are_told_apart(way: Chain) -> None:
    with way.rules(2, *TO_AF41), way.rules(5, *BLEACH):
        both = ask(way, code=2)
    for _family, said in both:
        assert [(c["after_hop"], c["from"], c["to"], c["pattern"]) for c in said["changes"]] == [
            (2, "EF", "AF41", "remarked"),
            (5, "AF41", "DF", "bleached"),
        ]


def test_a_silent_hop_is_counted_and_hides_nothing_else(way: Chain) -> None:
    with way.rules(4, *NO_ICMP, hook="output"):
        both = ask(way)
    for _family, said in both:
        assert arrived(said) == ["EF"] * 3 + [None] + ["EF"] * 4
        assert said["silent_hops"] == 1
        assert said["reached"]


def test_a_change_that_a_silent_hop_may_have_made_is_named_as_between_its_neighbours(way: Chain) -> None:
    started = time.monotonic()
    with way.rules(3, *BLEACH), way.rules(3 + 1, *NO_ICMP, hook="output"):
        both = ask(way, code=2)
    for _family, said in both:
        (change,) = said["changes"]
        assert (change["after_hop"], change["seen_at_hop"], change["silent_between"]) == (3, 5, 1)
        assert time.monotonic() - started < 15


def test_a_host_that_listens_says_nothing_and_the_report_says_so(way: Chain) -> None:
    with contextlib.ExitStack() as stack:
        with way.nodes[-1].entered():
            server = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))  # takes IPv4 too
        server.bind(("::", PORT))
        both = ask(way)
    for _family, said in both:
        assert arrived(said) == ["EF"] * ROUTERS
        assert not said["reached"]
        assert "did not answer" in said["summary"]


def test_filtered_icmp_is_a_line_in_the_report(way: Chain) -> None:
    with way.rules(1, "meta l4proto { icmp, icmpv6 } drop", hook="forward"), way.rules(2, *NO_ICMP, hook="output"):
        both = ask(way)
    for _family, said in both:
        assert arrived(said) == ["EF"]
        assert "did not answer" in said["summary"]


def test_ecn_that_is_cleared_or_set_is_told(way: Chain) -> None:
    with way.rules(3, "ip ecn set not-ect", "ip6 ecn set not-ect"), way.rules(6, "ip ecn set ce", "ip6 ecn set ce"):
        both = ask(way)
    for _family, said in both:
        assert [hop["arrived"]["ecn"] for hop in said["hops"]] == ["ECT_0"] * 3 + ["NOT_ECT"] * 3 + ["CE"] * 2
        assert len(said["ecn"]) == 2
        assert said["changes"] == []


def test_hops_are_asked_no_faster_than_they_like(way: Chain) -> None:
    with (
        Capture(way.start, "right", lambda frame: frame.outgoing and frame.destination_port == PORT) as wire,
        way.rules(4, *NO_ICMP, hook="output"),
    ):
        ask(way)
    for family in (4, 6):
        frames = [frame for frame in wire.frames() if frame.family == family]
        pace = (frames[-1].time_ns - frames[0].time_ns) / 1e9 / (len(frames) - 1)
        assert pace > 0.05  # 0.1 s by the book; the first may have left late
        limits = [frame.header[8 if family == 4 else 7] for frame in frames]
        assert max(limits.count(limit) for limit in limits) <= 3
        assert {frame.dscp for frame in frames} == {46}
        assert len({frame.source_port for frame in frames}) == 1


def test_people_get_a_table_and_a_sentence(way: Chain) -> None:
    with way.rules(3, *BLEACH):
        done = Qosctl(way.start)("path", way.address(HOPS, 4), "--port", str(PORT), check=False)
    assert done.returncode == 2
    assert "EF became DF between hop 3 (10.92.2.2) and hop 4 (10.92.3.2): bleached to zero" in done.stdout
    assert done.stdout.count("changed before") == 4


def test_an_ipv4_address_in_ipv6_writing_is_ipv4(way: Chain) -> None:
    said = Qosctl(way.start).read("path", f"::ffff:{way.address(HOPS, 4)}", "--port", str(PORT))
    assert said["address"] == way.address(HOPS, 4)
    assert arrived(said) == ["EF"] * HOPS


def test_a_router_that_refuses_ends_the_way(way: Chain) -> None:
    with way.rules(3, "meta l4proto udp reject with icmpx admin-prohibited", hook="forward"):
        both = ask(way)
    for _family, said in both:
        assert [hop["end"] for hop in said["hops"]] == [None] * 3 + ["unreachable"]
        assert said["hops"][3]["address"] == said["hops"][2]["address"]
        assert not said["reached"]


IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h


@pytest.mark.parametrize("family", [4, 6])
def test_the_error_queue_would_not_do(way: Chain, family: int) -> None:
    """Why raw sockets: the kernel hands up the payload behind the quoted headers, never the quoted traffic class."""
    with way.start.entered():
        sender = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sender:
        if family == 4:
            sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        sender.sendto(b"what is quoted", (way.address(HOPS, family), PORT))
        queue = select.poll()
        queue.register(sender, 0)  # errors are always waited for
        assert queue.poll(5000)
        data = sender.recvmsg(2048, 512, socket.MSG_ERRQUEUE)[0]
    assert data == b"what is quoted"
