"""Devices that go, come back, move and change their names: status tells the truth, attach and detach converge."""

from __future__ import annotations

import time

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.device_pins import pinned_devices
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.attach import attach, detach, detach_all
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab.wire import (
    FAR,
    NEAR,
    Stand,
    both_hooks,
    devices,
)


@both_hooks
def test_a_renamed_device_stays_attached(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    set_passtos(True)
    stand.sender.run(["ip", "link", "set", NEAR, "down"])
    stand.sender.run(["ip", "link", "set", NEAR, "name", "lan-0"])
    stand.sender.run(["ip", "link", "set", "lan-0", "up"])
    assert devices() == {"lan-0": DeviceState.ATTACHED}
    with pytest.raises(RefusedError, match="no such device"):
        detach([NEAR])
    assert [a.change for a in attach(["lan-0"], kind)] == ["already"]
    detach(["lan-0"])
    assert devices() == {}
    stand.sender.run(["ip", "link", "set", "lan-0", "down"])
    stand.sender.run(["ip", "link", "set", "lan-0", "name", NEAR])


@both_hooks
def test_a_deleted_device_is_told_and_forgotten(stand: Stand, kind: HookKind) -> None:
    stand.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
    attach(["lan-1", NEAR], kind)
    stand.sender.run(["ip", "link", "del", "lan-1"])
    assert sorted(state.value for state in devices().values()) == ["attached", "gone"]
    (gone,) = detach(["lan-1"])
    assert (gone.device, gone.gone) == ("lan_1", True), "as a map's name spells it"
    assert devices() == {NEAR: DeviceState.ATTACHED}


@both_hooks
@pytest.mark.parametrize("same_index", [True, False])
def test_a_device_made_anew_is_attached_anew(stand: Stand, kind: HookKind, same_index: bool) -> None:
    stand.sender.run(["ip", "link", "add", "lan-1", "index", "71", "type", "ifb"])
    attach(["lan-1"], kind)
    stand.sender.run(["ip", "link", "del", "lan-1"])
    stand.sender.run(["ip", "link", "add", "lan-1", *(["index", "71"] if same_index else []), "type", "ifb"])
    assert list(devices().values()) == [DeviceState.DETACHED if same_index else DeviceState.GONE]
    assert [a.change for a in attach(["lan-1"], kind)] == ["attached"]
    assert devices() == {"lan-1": DeviceState.ATTACHED}
    detach(["lan-1"])
    assert not folder().exists()
    assert stand.sender.run(["tc", "qdisc", "show", "dev", "lan-1", "clsact"]).stdout == ""


@both_hooks
def test_another_device_under_a_gone_ones_number(stand: Stand, kind: HookKind) -> None:
    stand.sender.run(["ip", "link", "add", "lan-1", "index", "71", "type", "ifb"])
    attach(["lan-1"], kind)
    stand.sender.run(["ip", "link", "del", "lan-1"])
    stand.sender.run(["ip", "link", "add", "wan-1", "index", "71", "type", "ifb"])
    assert devices() == {"wan-1": DeviceState.DETACHED}
    attach(["wan-1"], kind)
    assert devices() == {"wan-1": DeviceState.ATTACHED}
    detach(["wan-1"])
    assert not folder().exists()


@both_hooks
def test_a_device_moved_away_and_back(stand: Stand, kind: HookKind) -> None:
    stand.sender.run(["ip", "link", "add", "lan1", "index", "71", "type", "ifb"])
    attach(["lan1"], kind)
    stand.sender.run(["ip", "link", "set", "lan1", "netns", stand.watcher.name])
    assert devices() == {"lan1": DeviceState.GONE}
    with stand.watcher.entered():
        assert devices() == {}
        attach(["lan1"], kind)
        assert devices() == {"lan1": DeviceState.ATTACHED}
        detach(["lan1"])
    stand.watcher.run(["ip", "link", "set", "lan1", "netns", stand.sender.name])
    # What stays with a device that moves is the kernel's business; status must say what is so.
    ours = (
        syscall.tcx_programs(71)
        if kind is HookKind.TCX
        else [clsact.our_program(71)] * (clsact.our_program(71) is not None)
    )
    assert devices() == {"lan1": DeviceState.ATTACHED if ours else DeviceState.DETACHED}
    attach(["lan1"], kind)
    assert devices() == {"lan1": DeviceState.ATTACHED}
    detach(["lan1"])
    assert syscall.tcx_programs(71) == []
    assert not folder().exists()


def test_another_device_under_a_moved_ones_number(stand: Stand) -> None:
    """The link goes with the device that moved: the new one must not pass for attached."""
    stand.sender.run(["ip", "link", "add", "lan1", "index", "71", "type", "ifb"])
    attach(["lan1"], HookKind.TCX)
    stand.sender.run(["ip", "link", "set", "lan1", "netns", stand.watcher.name])
    stand.sender.run(["ip", "link", "add", "lan2", "index", "71", "type", "ifb"])
    assert devices() == {"lan2": DeviceState.DETACHED}
    attach(["lan2"], HookKind.TCX)
    assert devices() == {"lan2": DeviceState.ATTACHED}
    with stand.watcher.entered():
        deadline = time.monotonic() + 10  # the kernel lets a link go a moment after its last user
        while syscall.tcx_programs(71):
            assert time.monotonic() < deadline, "nothing of ours stays on the device that moved"
            time.sleep(0.01)
    detach(["lan2"])


def test_devices_without_an_ethernet_header_are_known_by_their_kind(stand: Stand) -> None:
    stand.sender.run(["ip", "tuntap", "add", "raw0", "mode", "tun"])
    stand.sender.run(["ip", "tuntap", "add", "tap0", "mode", "tap"])
    attach(["raw0", "tap0"])
    tags = {device.name: device.program.tag for device in status().devices if device.program is not None}
    assert tags["raw0"] != tags["tap0"]
    detach(["raw0", "tap0"])
    assert not list(pinned_devices())


def test_the_far_end_of_a_wire_is_not_the_near_end(stand: Stand) -> None:
    """State is kept per network namespace."""
    attach([NEAR])
    with stand.watcher.entered():
        assert devices() == {}
        attach([FAR])
        detach_all()
    assert devices() == {NEAR: DeviceState.ATTACHED}
