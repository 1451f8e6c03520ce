"""Who else touches the packets, each of them really there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf import syscall
from qosctl.supervisor.attach import attach
from qosctl.supervisor.doctor import neighbours, others
from qosctl.supervisor.doctor.finding import Finding, Level
from qosctl.supervisor.doctor.machine import Qdisc
from qosctl.supervisor.hooks import HookKind
from qosctl.supervisor.status import flows, status

from tests.doctor.looking import bad, one
from tests.lab import Namespace, end
from tests.supervisor.stand import NEAR, Stand, both_hooks, foreign_program, pinned


def look() -> list[Finding]:
    return list(neighbours.check([NEAR], {device.name: device for device in status().devices}))


@contextlib.contextmanager
def filter_at(stand: Stand, priority: int) -> Iterator[None]:
    program = foreign_program(ttl=77)
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"], check=False)
    where = ["tc", "filter", "add", "dev", NEAR, "egress", "prio", str(priority)]
    stand.sender.run([*where, "bpf", "da", "pinned", str(path)])
    yield
    os.close(program)
    path.unlink()


@both_hooks
@pytest.mark.usefixtures("stand")
def test_nobody_but_us(kind: HookKind) -> None:
    attach([NEAR], kind)
    assert bad(look()) == {"queue": Level.WARN}


def test_programs_and_filters_ahead(stand: Stand) -> None:
    attach([NEAR], HookKind.CLSACT)
    with filter_at(stand, 1):
        assert bad(look())["ahead"] is Level.WARN


def test_a_tcx_program_ahead_and_one_behind(stand: Stand) -> None:
    program = foreign_program(ttl=77)
    behind = syscall.link_create_tcx_first(program, stand.index)
    attach([NEAR], HookKind.TCX)
    assert bad(look())["behind"] is Level.WARN
    assert "ahead" not in bad(look())
    os.close(behind)
    ahead = syscall.link_create_tcx_first(program, stand.index)
    assert bad(look())["ahead"] is Level.WARN
    assert "behind" not in bad(look())
    os.close(ahead)
    os.close(program)


@both_hooks
def test_a_filter_behind_us(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    with filter_at(stand, 5):
        assert bad(look())["behind"] is Level.WARN


def test_queues(stand: Stand) -> None:
    assert neighbours.queue(NEAR).level is Level.WARN
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "root", "pfifo"])
    assert "pfifo" in neighbours.queue(NEAR).seen
    stand.sender.run(["tc", "qdisc", "replace", "dev", NEAR, "root", "htb"])
    assert neighbours.queue(NEAR).level is Level.PASS
    assert neighbours.queue("nosuch").level is Level.WARN


def test_cake_that_is_told_not_to_look() -> None:
    assert neighbours.verdict("eth0", [Qdisc("cake", True, {3: b"\3\0\0\0"})]).level is Level.WARN
    assert neighbours.verdict("eth0", [Qdisc("cake", True, {3: b"\1\0\0\0"})]).level is Level.PASS


def test_rules_of_the_packet_filter_that_write_the_dscp() -> None:
    with Namespace("filtered") as filtered, filtered.entered():
        assert bad(neighbours.packet_filter()) == {}
        for written in ("ip dscp set ef", "ip6 dscp set af41", "meta mark set 1", "ip ttl set 9"):
            chain = "type filter hook postrouting priority mangle;"
            filtered.run(["nft", "-f", "-"], stdin=f"table inet t {{ chain c {{ {chain}\n{written}\n}}\n}}\n")
            found = bad(neighbours.packet_filter())
            filtered.run(["nft", "flush", "ruleset"])
            assert found == ({"packet-filter": Level.WARN} if "dscp" in written else {}), written


def test_a_client_that_copies_marks_itself(stand: Stand) -> None:
    """openconnect is left hanging in its first connection attempt: nobody answers there."""
    silent = "10.92.0.77"
    stand.sender.run(["ip", "neigh", "replace", silent, "lladdr", "02:00:00:00:00:77", "dev", NEAR])
    client = stand.sender.popen(["openconnect", "--passtos", f"https://{silent}"])
    while b"openconnect" not in Path(f"/proc/{client.pid}/cmdline").read_bytes().split(b"\0")[0]:
        assert client.poll() is None
    found = one(others.check(()), "copying-client")
    with Namespace("elsewhere") as elsewhere, elsewhere.entered():
        assert bad(others.check(())) == {}
    end(client)
    assert found.level is Level.WARN
    assert str(client.pid) in found.seen


def test_a_socket_of_ours_that_has_a_mark_of_its_own(stand: Stand) -> None:
    attach([NEAR])
    for version, level, option in ((4, socket.IPPROTO_IP, socket.IP_TOS), (6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
        with stand.tunnel(version) as tunnel:
            assert bad(others.check(flows())) == {}
            tunnel.socket.setsockopt(level, option, 0xB8)
            found = one(others.check(flows()), "socket-option")
        assert found.level is Level.WARN
        assert "EF" in found.seen


def test_the_tools_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "neither nft nor iptables" in one(neighbours.packet_filter(), "packet-filter").seen
