"""Who else touches the packets, each of them really there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf.kernel import syscall
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.status import flows, status
from qosctl.supervisor.doctor import examine, foreign_programs, other_markers
from qosctl.supervisor.doctor.finding import Finding, Level
from qosctl.supervisor.doctor.host_snapshot import Qdisc
from qosctl.supervisor.doctor.scratch_netns import started

from tests.lab import Namespace, end
from tests.lab.wire import NEAR, Stand, both_hooks, foreign_program, pinned
from tests.supervisor.doctor.looking import bad, causes, look_at, one


def look() -> list[Finding]:
    return list(foreign_programs.check([NEAR], {device.name: device for device in status().devices}))


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


@causes("ahead", "runs before our program")
def test_programs_and_filters_ahead(stand: Stand) -> None:
    attach([NEAR], HookKind.CLSACT)
    with filter_at(stand, 1):
        assert bad(look())["ahead"] is Level.WARN


@causes("ahead", "runs before our program")
@causes("behind", "runs behind our program")
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
@causes("behind", "runs behind our program")
def test_a_filter_behind_us(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    with filter_at(stand, 5):
        assert bad(look())["behind"] is Level.WARN


@causes("queue", "which does not look at the mark")
@pytest.mark.parametrize("root", ["noqueue", "pfifo", "bfifo"])
def test_a_queue_that_does_not_look(stand: Stand, root: str) -> None:
    stand.sender.run(["tc", "qdisc", "replace", "dev", NEAR, "root", root])
    assert bad([foreign_programs.queue(NEAR)]) == {"queue": Level.WARN}
    assert f"{NEAR}: {root}, which does not look" in foreign_programs.queue(NEAR).seen


@pytest.mark.parametrize("root", ["htb", "pfifo_fast", "mq"])
def test_a_queue_that_looks_or_can(stand: Stand, root: str) -> None:
    """Children of an mq are what the machine's default is, here pfifo_fast."""
    stand.sender.run(["tc", "qdisc", "replace", "dev", NEAR, "root", root])
    assert bad([foreign_programs.queue(NEAR)]) == {}
    assert ("pfifo_fast" if root == "mq" else root) in foreign_programs.queue(NEAR).seen


@causes("queue", "its queue cannot be seen")
@pytest.mark.usefixtures("stand")
def test_the_queue_of_a_device_that_is_gone() -> None:
    assert bad([foreign_programs.queue("nosuch")]) == {"queue": Level.WARN}


@causes("queue", "cake in besteffort mode")
def test_cake_that_is_told_not_to_look() -> None:
    """From what the kernel says of a real one, which tests/kernels makes: not every kernel has CAKE."""
    assert bad([foreign_programs.verdict("eth0", [Qdisc("cake", True, {3: b"\3\0\0\0"})])]) == {"queue": Level.WARN}
    assert bad([foreign_programs.verdict("eth0", [Qdisc("cake", True, {3: b"\1\0\0\0"})])]) == {}


@causes("packet-filter", "writes the DSCP")
def test_rules_of_the_packet_filter_that_write_the_dscp() -> None:
    with Namespace("filtered") as filtered, filtered.entered():
        assert bad(foreign_programs.packet_filter()) == {}
        for written in ("ip dscp set ef", "ip6 dscp set af41", "meta mark set 1", "ip ttl set 9"):
            chain = "type filter hook postrouting priority mangle;"
            filtered.run(["nft", "-f", "-"], stdin=f"table inet t {{ chain c {{ {chain}\n{written}\n}}\n}}\n")
            found = bad(foreign_programs.packet_filter())
            filtered.run(["nft", "flush", "ruleset"])
            assert found == ({"packet-filter": Level.WARN} if "dscp" in written else {}), written


@pytest.mark.parametrize("tool", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
@pytest.mark.parametrize(
    "target", [("DSCP", "--set-dscp-class", "EF"), ("TOS", "--set-tos", "0xb8"), ("TOS", "--or-tos", "0x10")]
)
@causes("packet-filter", "writes the DSCP")
def test_rules_of_both_kinds_of_iptables_that_write_the_byte(tool: str, target: tuple[str, ...]) -> None:
    with Namespace("filtered") as filtered, filtered.entered():
        filtered.run([tool, "-t", "mangle", "-A", "POSTROUTING", "-j", "MARK", "--set-mark", "1"])
        assert bad(foreign_programs.packet_filter()) == {}
        filtered.run([tool, "-t", "mangle", "-A", "POSTROUTING", "-j", *target])
        found = one(foreign_programs.packet_filter(), "packet-filter")  # once, although two tools can tell
        assert found.level is Level.WARN
        assert found.seen.startswith(f"{tool}-save: -A POSTROUTING -j {target[0]} ")
        assert found.fix == f"{tool} -t mangle -L -v --line-numbers"
        shown = filtered.run(found.fix.split()).stdout
        assert target[0] in shown


def test_looking_for_rules_makes_no_tables() -> None:
    with Namespace("untouched") as untouched, untouched.entered():
        assert bad(foreign_programs.packet_filter()) == {}
        assert untouched.run(["nft", "list", "ruleset"]).stdout == ""
        assert Path("/proc/thread-self/net/ip_tables_names").read_text() == ""


@causes("packet-filter", "does not tell its rules")
def test_a_packet_filter_that_may_not_be_asked() -> None:
    def ask() -> list[Finding]:
        os.setuid(65534)
        return list(foreign_programs.packet_filter())

    with started("test", ask) as pending:
        found = look_at(pending.result())
    assert {finding.level for finding in found} == {Level.WARN}
    assert any("nft does not tell its rules: " in finding.seen for finding in found)


@causes("neighbours", "run it again")
def test_a_tool_that_hangs_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = look_at(examine._guarded("neighbours", foreign_programs.packet_filter))
    assert [finding.seen.startswith("could not look: ") for finding in found] == [True]


@causes("copying-client", "runs with --passtos")
def test_a_client_that_copies_marks_itself(stand: Stand) -> None:
    """openconnect is left hanging in its first connection attempt: nobody answers there."""
    silent = "10.92.0.77"
    stand.sender.run(["ip", "neigh", "replace", silent, "lladdr", "02:00:00:00:00:77", "dev", NEAR])
    client = stand.sender.popen(["openconnect", "--passtos", f"https://{silent}"])
    while b"openconnect" not in Path(f"/proc/{client.pid}/cmdline").read_bytes().split(b"\0")[0]:
        assert client.poll() is None
    found = one(other_markers.check(()), "copying-client")
    with Namespace("elsewhere") as elsewhere, elsewhere.entered():
        assert bad(other_markers.check(())) == {}
    end(client)
    assert found.level is Level.WARN
    assert str(client.pid) in found.seen


@causes("socket-option", "its socket has an option set for ")
def test_a_socket_of_ours_that_has_a_mark_of_its_own(stand: Stand) -> None:
    attach([NEAR])
    for version, level, option in ((4, socket.IPPROTO_IP, socket.IP_TOS), (6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
        with stand.tunnel(version) as tunnel:
            assert bad(other_markers.check(flows())) == {}
            tunnel.socket.setsockopt(level, option, 0xB8)
            found = one(other_markers.check(flows()), "socket-option")
        assert found.level is Level.WARN
        assert "EF" in found.seen


def test_the_tools_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "neither nft nor iptables" in one(foreign_programs.packet_filter(), "packet-filter").seen
