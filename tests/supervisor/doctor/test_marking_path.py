"""Each thing that keeps marks from being made is caused for real, and found."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import pytest
from qosctl.bpf.abi import FOLLOW_COUNTERS
from qosctl.bpf.dscp import DF, EF
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps import namespace_maps
from qosctl.bpf.maps.counters import possible_cpus
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.following import Reads, follow_pins
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.follow import follow
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.policy import change_policy, parse_rules
from qosctl.supervisor.doctor import marking_path
from qosctl.supervisor.doctor.finding import Finding, Level

from tests.lab import Namespace, Qosctl
from tests.lab.carrier_program import tuns_are_carriers
from tests.lab.packets import record
from tests.lab.tun_program import TunDevice
from tests.lab.wire import ADDRESSES, FAR, NEAR, Stand, Tunnel, foreign_program
from tests.supervisor.doctor.looking import bad, causes, look_at, one


@pytest.fixture(autouse=True)
def short_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking_path, "MOMENT", 0.02)


def look(*devices: str) -> list[Finding]:
    return list(marking_path.check(marking_path.observe(devices)))


@contextlib.contextmanager
def marking(stand: Stand, numbers: Sequence[int] = (1, 2)) -> Iterator[Tunnel]:
    """Everything as it should be, with some records marked EF."""
    attach([NEAR])
    set_passtos(True)
    with stand.tunnel() as tunnel:
        for number in numbers:
            tunnel.send(number, EF)
        yield tunnel


def test_a_machine_that_marks_has_nothing_to_mend(stand: Stand) -> None:
    with marking(stand):
        found = look()
    assert bad(found) == {}
    assert one(found, "counters").seen == f"{NEAR}: 2 records carried as EF"


@pytest.mark.usefixtures("stand")
@causes("attached", "no program of ours")
@causes("switch", "passtos is off")
@causes("flows", "no tunnel of ours")
def test_nothing_at_all_is_set_up() -> None:
    found = look(NEAR)
    assert bad(found) == {"attached": Level.FAIL, "switch": Level.FAIL, "flows": Level.FAIL}
    assert [finding.fix for finding in found if finding.level is Level.FAIL][:2] == [
        f"qosctl attach {NEAR}",
        "qosctl passtos on",
    ]


@causes("attached", "no device is attached")
def test_no_device_is_named_and_none_leads_anywhere() -> None:
    with Namespace("nowhere") as nowhere, nowhere.entered():
        assert one(look(), "attached").seen == "no device is attached"


def test_the_device_of_the_default_route_is_looked_at_unasked(stand: Stand) -> None:
    stand.sender.run(["ip", "route", "add", "default", "via", ADDRESSES[4][1]])
    assert one(look(), "attached").fix == f"qosctl attach {NEAR}"


@pytest.mark.usefixtures("stand")
@causes("attached", "no such device")
def test_a_device_that_is_not_there() -> None:
    assert one(look("nosuch"), "attached").seen == "nosuch: no such device"


@causes("switch", "passtos is off")
def test_the_switch_is_off(stand: Stand) -> None:
    with marking(stand):
        set_passtos(False)
        found = look()
    assert bad(found) == {"switch": Level.FAIL}
    assert one(found, "switch").fix == "qosctl passtos on"


@causes("attached", "and is not any more")
def test_somebody_took_the_program_off(stand: Stand) -> None:
    with marking(stand):
        link = syscall.obj_get(str(pins_of(stand.index).link))
        syscall.link_detach(link)
        os.close(link)
        found = look()
    assert bad(found)["attached"] is Level.FAIL
    assert "not any more" in one(found, "attached").seen


@causes("attached", "went away after attach")
def test_the_device_went_away(stand: Stand) -> None:
    attach([NEAR])
    stand.sender.run(["ip", "link", "del", NEAR])
    assert bad(look())["attached"] is Level.WARN


@causes("attached", "went away after attach")
def test_the_device_goes_away_in_the_middle(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking_path, "MOMENT", 0.3)
    attach([NEAR])
    timer = threading.Timer(0.1, lambda: stand.watcher.run(["ip", "link", "del", FAR]))
    timer.start()
    found = look(NEAR)
    timer.join()
    assert one(found, "attached").level is Level.WARN


@causes("way-out", "which is not attached")
def test_the_tunnel_leaves_by_another_device(stand: Stand) -> None:
    with marking(stand):
        stand.sender.run(["ip", "link", "add", "name", "other", "type", "veth", "peer", "name", "rehto"])
        stand.sender.run(["ip", "link", "set", "other", "up"])
        stand.sender.run(["ip", "route", "add", f"{ADDRESSES[4][1]}/32", "dev", "other"])
        found = look()
    assert one(found, "way-out").fix == "qosctl attach other"


@causes("policy", "the policy marks no class")
@causes("policy", "leaves EF alone")
@causes("policy", "makes EF ")
def test_the_policy_marks_nothing_or_not_ef(stand: Stand) -> None:
    with marking(stand):
        change_policy(lambda _: Policy.allow())
        assert bad(look())["policy"] is Level.FAIL
        change_policy(lambda _: Policy.identity().replaced(parse_rules(["EF=leave"])))
        assert one(look(), "policy").seen == "the policy leaves EF alone"
        change_policy(lambda _: Policy.identity().replaced(parse_rules(["EF=AF41"])))
        assert one(look(), "policy").seen == "the policy makes EF AF41"


@pytest.mark.usefixtures("stand")
@causes("flows", "is dead")
@causes("flows", "no tunnel of ours")
def test_no_tunnel_and_a_dead_tunnel() -> None:
    attach([NEAR])
    set_passtos(True)
    assert bad(look()) == {"flows": Level.FAIL}
    ring = Ring(Owner(1, 0, "tun-dead", "server.example"))
    with namespace_maps.open_state() as opened:
        opened.flows.add(FlowKey((ADDRESSES[4][0], 5), (ADDRESSES[4][1], 6)), ring)
        ring.close()
        try:
            levels = [finding.level for finding in look_at(look()) if finding.check == "flows"]
        finally:
            opened.flows.remove(FlowKey((ADDRESSES[4][0], 5), (ADDRESSES[4][1], 6)))
    assert levels == [Level.WARN, Level.FAIL]


@causes("counters", "most records ended as ")
def test_records_whose_mark_is_not_found(stand: Stand) -> None:
    with marking(stand) as tunnel:
        for number in range(10, 20):
            tunnel.socket.send(record(number))
        found = look()
    assert bad(found) == {"counters": Level.WARN}
    assert "no_mark" in one(found, "counters").seen


@causes("counters", "all of them DF inside")
def test_applications_that_do_not_mark(stand: Stand) -> None:
    with marking(stand, ()) as tunnel:
        tunnel.send(1, DF)
        found = look()
    assert bad(found) == {"counters": Level.WARN}
    assert "all of them DF" in one(found, "counters").seen


@causes("seen", "our program saw none of them")
def test_a_program_ahead_that_ends_the_chain(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking_path, "MOMENT", 0.3)
    with marking(stand) as tunnel:
        program = foreign_program(ttl=77, verdict=0)
        link = syscall.link_create_tcx_first(program, stand.index)

        def send() -> None:
            for number in range(3, 30):
                tunnel.send(number)

        timer = threading.Timer(0.05, send)
        timer.start()
        found = look()
        timer.join()
        os.close(link)
        os.close(program)
    assert bad(found) == {"seen": Level.FAIL}
    assert "saw none" in one(found, "seen").seen
    assert "program" in one(found, "seen").means


@causes("window", " packets left soon after one of another class, ")
def test_what_marks_can_cost_at_a_receiver_is_said_and_counted(stand: Stand) -> None:
    """The counts are put in by hand: tests/bpf/program/test_follow.py has them counted."""
    stand.sender.run(["ip", "tuntap", "add", "dev", "tun7", "mode", "tun"])
    follow(["tun*"])
    cures = ("`qosctl connect` as the client of ocserv, `--replay-window 4096` there of OpenVPN",
             "`qosctl connect` as the client", "`--replay-window 4096` there")  # fmt: skip
    for counts, cure in zip(
        (Reads(0, 0, 0, 0, 0, 0, 0), Reads(9, 0, 0, 0, 9, 0, 0), Reads(9, 0, 0, 0, 0, 9, 0)), cures, strict=True
    ):
        put_reads(counts)
        (found,) = look_at(finding for finding in look() if finding.check == "window")
        line = f"tun7: what is overtaken by more than 64 packets, its receiver may drop; cure: {cure}"
        assert (found.level, found.seen) == (Level.PASS, line)
        assert line in Qosctl(stand.sender)("status", check=False).stdout
        assert line in Qosctl(stand.sender)("follow", "tun*").stderr
    put_reads(Reads(9, 0, 0, 0, 0, 9, 1234))
    (found,) = look_at(finding for finding in look() if finding.check == "window")
    assert found.level is Level.WARN
    assert found.seen.startswith("tun7: 1,234 packets left soon after one of another class, 64 or more behind")
    assert found.means.endswith(f"cure: {cures[2]}")


def put_reads(counts: Reads) -> None:
    """Let the first pattern have these counts, on the first processor."""
    fd = syscall.obj_get(str(follow_pins().path / "reads"))
    whole = FOLLOW_COUNTERS.pack(*astuple(counts))
    syscall.map_update(fd, bytes(4), whole.ljust(FOLLOW_COUNTERS.size * possible_cpus(), b"\0"))
    os.close(fd)


@causes("followed", "our program is not where it belongs")
@causes("followed", " is not followed, though its name fits")
def test_what_is_followed_and_what_is_not(stand: Stand) -> None:
    for name, mode in (("tun7", "tun"), ("tap7", "tap")):
        stand.sender.run(["ip", "tuntap", "add", "dev", name, "mode", mode])
    attach([NEAR])
    set_passtos(True)
    follow(["t*"])
    found = look_at(finding for finding in look() if finding.check in ("followed", "flows"))
    assert [(finding.level, finding.seen) for finding in found] == [
        (Level.PASS, "tunnels of other programs: tun7"),
        (Level.WARN, "tap7 is not followed, though its name fits"),
    ]
    follow_pins().link.unlink()
    found = look_at(finding for finding in look() if finding.check == "followed")
    assert (found[0].level, found[0].fix) == (Level.FAIL, "qosctl follow t*")


@causes("followed", " was made in another network namespace, where its packets leave")
@causes("followed", " runs before ours")
@pytest.mark.usefixtures("stand")
def test_a_carrier_that_is_not_heard_here() -> None:
    """A WireGuard device whose socket is elsewhere, and on which somebody else's program comes first."""
    with tuns_are_carriers(namespace_at=8), contextlib.closing(TunDevice("wg0", 0)) as device:
        attach([NEAR])
        set_passtos(True)
        follow(["wg0"])
        device.take(100)
        program = foreign_program(7)
        link = syscall.link_create_tcx_first(program, socket.if_nametoindex("wg0"))
        found = look_at(finding for finding in look() if finding.check == "followed")
        os.close(link)
        os.close(program)
    assert [finding.level for finding in found] == [Level.PASS, Level.WARN, Level.WARN]
    assert found[1].seen.startswith("wg0 was made in another network namespace")
    assert found[2].seen.startswith("wg0: program ")
