"""Following tunnels of the kernel: what stands where, whatever comes, goes or is killed. TUNs stand for WireGuard's."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from qosctl.bpf.abi import FollowWay
from qosctl.bpf.dscp import EF
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.load.loader import LOADER
from qosctl.bpf.maps.device_pins import pinned_devices, pins_of
from qosctl.bpf.maps.following import follow_pins
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.cli.main import main
from qosctl.supervisor.devices import carriers, hooks, tun_reads
from qosctl.supervisor.devices.attach import attach, detach, detach_all
from qosctl.supervisor.devices.follow import follow, following, unfollow, unfollow_all
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import DeviceState, status
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.supervise.attach_worker import do_each
from qosctl.supervisor.supervise.config import Config
from qosctl.supervisor.supervise.observe import observe
from qosctl.supervisor.supervise.reconcile import Follow, Memory, plan

from tests.lab.carrier_program import tuns_are_carriers
from tests.lab.tun_program import TunDevice
from tests.lab.wire import NEAR, Stand, both_hooks, devices, foreign_program
from tests.supervisor.devices.test_kill import each_death

pytestmark = pytest.mark.usefixtures("stand")


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[None]:
    with tuns_are_carriers():
        yield


@pytest.fixture(name="wg0")
def wg0_fixture(stand: Stand) -> Iterator[TunDevice]:
    assert stand
    with closing(TunDevice("wg0", 0)) as device:
        yield device


def egress_tag() -> str:
    (device,) = status().devices
    assert device.program is not None
    return device.program.tag


def names() -> list[str]:
    return [carrier.name for carrier in carriers.carriers()]


@pytest.mark.usefixtures("wg0")
def test_a_carrier_alone_needs_no_tracepoint_and_leaves_nothing_behind() -> None:
    attach([NEAR])
    plain = egress_tag()
    assert follow(["wg0"]) == [True]
    assert (names(), following().running, follow_pins().ways) == (["wg0"], True, FollowWay.HASH)
    assert tun_reads.standing() is None
    assert egress_tag() != plain
    assert follow(["wg0"]) == [False]
    unfollow(["wg0"])
    assert egress_tag() == plain
    assert not follow_pins().path.exists()
    assert hooks.in_use(pins_of(index("wg0"), inner=True)) is None
    detach_all()
    assert not folder().exists()


def test_devices_that_come_are_found_by_the_next_look_of_a_supervisor() -> None:
    attach([NEAR])
    follow(["wg*"])
    assert follow_pins().ways == FollowWay.READS, "what needs nobody when a device comes"
    with closing(TunDevice("wg0", 0)), closing(TunDevice("other0", 1)):
        look = observe(lambda _: False)
        assert look.unserved == {index("wg0")}
        assert not following().running
        assert "    wg0: not marked: it has come since (try: qosctl follow 'wg*')\n" in run("status")
        ((action),) = plan(Config(), look, Memory(), 0)
        assert action == Follow((), ())
        serve()
        assert (names(), following().running, follow_pins().ways) == (["wg0"], True, FollowWay.HASH)
        assert observe(lambda _: False).unserved == frozenset()
    assert len(observe(lambda _: False).unserved) == 1, "one that is gone, and its pins"
    serve()
    assert list(pinned_devices(inner=True)) == []
    assert follow_pins().ways == FollowWay.HASH, "as it was: nothing else has come"
    assert observe(lambda _: False).unserved == frozenset()


def test_an_attach_serves_devices_that_have_come() -> None:
    follow(["wg*"])
    with closing(TunDevice("wg0", 0)):
        attach([NEAR])
        assert (names(), following().running) == (["wg0"], True)
        detach([NEAR])
        assert names() == ["wg0"], "what is followed stays, as the policy does"
        attach([NEAR])
        detach_all()
        assert hooks.in_use(pins_of(index("wg0"), inner=True)) is None
    assert not folder().exists()


@pytest.mark.usefixtures("wg0")
def test_a_device_that_is_renamed_is_followed_by_its_name() -> None:
    attach([NEAR])
    follow(["wg0", "late0"], to_come=True)
    subprocess.run(["ip", "link", "set", "wg0", "down", "name", "vpn0"], check=True)
    assert observe(lambda _: False).unserved == {index("vpn0")}
    serve()
    assert names() == []
    subprocess.run(["ip", "link", "set", "vpn0", "name", "late0"], check=True)
    serve()
    assert names() == ["late0"]


@pytest.mark.usefixtures("wg0")
def test_each_kill_is_mended_by_the_same_command() -> None:
    attach([NEAR])
    plain = egress_tag()
    for _ in each_death(lambda: follow(["wg0"]), lambda: follow_pins().path.exists() and unfollow_all()):
        assert devices() == {NEAR: DeviceState.ATTACHED}
        follow(["wg0"])
        assert (names(), following().running) == (["wg0"], True)
    for _ in each_death(unfollow_all, lambda: follow(["wg0"])):
        follow(["wg0"])
        unfollow_all()
        assert (egress_tag(), hooks.in_use(pins_of(index("wg0"), inner=True))) == (plain, None)
    detach_all()
    assert not folder().exists()


@both_hooks
@pytest.mark.usefixtures("wg0")
def test_a_tunnel_in_a_tunnel_is_marked_first_and_read_then(kind: HookKind) -> None:
    """The device is one by which outer packets leave, too: their class is read as it has just been written."""
    attach(["wg0"], kind)
    follow(["wg0"])
    marks, reads = (hooks.in_use(pins_of(index("wg0"), inner=inner)) for inner in (False, True))
    assert marks is not None
    assert reads is not None
    assert (marks.kind, reads.kind) == (kind, kind)
    assert (marks.ahead(), reads.ahead()) == ([], [])
    if kind is HookKind.TCX:
        assert syscall.tcx_programs(index("wg0")) == [marks.attached(), reads.attached()]
    detach(["wg0"])
    assert names() == ["wg0"]


def test_programs_of_others_on_the_device_are_named(wg0: TunDevice) -> None:
    follow(["wg0"])
    foreign = [foreign_program(ttl) for ttl in (7, 8)]
    links = [syscall.link_create_tcx_first(program, index(wg0.name)) for program in foreign]
    try:
        (carrier,) = carriers.carriers()
        assert len(carrier.ahead) == 2
        said = run("status")
        assert said.count("runs before us: program") == 2
    finally:
        for fd in (*links, *foreign):
            os.close(fd)


def test_status_says_from_which_port_a_device_sends(wg0: TunDevice) -> None:
    attach([NEAR])
    set_passtos(True)
    assert "wg0: followed" in run("follow", "wg0")
    assert "    wg0: no packet has gone into it while passtos was on\n" in run("status")
    wg0.take(100, EF)
    (carrier,) = carriers.carriers()
    assert (carrier.port, carrier.elsewhere) == (1500, False)
    assert "    wg0: sends from port 1500, " in run("status")
    unfollow_all()
    with tuns_are_carriers(namespace_at=8):
        follow(["wg0"])
        wg0.take(100, EF)
        (carrier,) = carriers.carriers()
        assert (carrier.port, carrier.elsewhere) == (None, True)
        assert "    wg0: was made in another network namespace" in run("status")


def test_follow_says_what_devices_to_come_need() -> None:
    said = "WireGuard devices to come are followed while `qosctl supervise` runs, or once this command is repeated\n"
    assert said in run("follow", "wg*")
    with closing(TunDevice("wg0", 0)):
        assert said in run("follow", "wg*")
        assert said not in run("follow", "wg0")


@pytest.mark.usefixtures("wg0")
def test_what_the_kernel_refuses_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    attach([NEAR])
    plain = egress_tag()
    monkeypatch.setattr(type(LOADER), "load_carry", refuse)
    assert "no program today" in run("follow", "wg0", status=2)
    assert (egress_tag(), following().patterns) == (plain, ())
    assert hooks.in_use(pins_of(index("wg0"), inner=True)) is None
    assert list(bpffs.ROOT.glob("*/follow")) == []


def refuse(*_: object) -> int:
    raise RefusedError("no program today")


def serve() -> None:
    """What the supervisor's worker does."""
    assert list(do_each([{"device": "what is followed", "follow": [], "unfollow": []}])) == [
        {"device": "what is followed", "change": "followed"}
    ]


def run(*words: str, status: int = 0) -> str:
    """Run a command in this process, which knows of the stand-in."""
    said = io.StringIO()
    code = main(words, said, said)
    assert code == status or (words[0] == "status" and code == Exit.NOT_ATTACHED), said.getvalue()
    return said.getvalue()


def index(name: str) -> int:
    return socket.if_nametoindex(name)
