"""Attaching and detaching: what the wire and the kernel say of it, not what we say."""

from __future__ import annotations

import re
import subprocess

import pytest
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.attach import attach, detach, detach_all
from qosctl.supervisor.devices.hooks import HookKind, TcxHook
from qosctl.supervisor.devices.passtos import passtos, set_passtos
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab.qosctl import COMMAND
from tests.lab.wire import (
    HOOKS,
    NEAR,
    Stand,
    another_version,
    both_hooks,
    devices,
    our_programs,
    stamped,
    tcx_programs,
)


@both_hooks
def test_attach_twice_is_a_notice(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    before = stand.snapshot()
    assert [a.change for a in attach([NEAR], kind)] == ["already"]
    assert [(a.change, a.hook) for a in attach([NEAR])] == [("already", kind)]
    assert stand.snapshot() == before


def test_auto_takes_tcx_where_the_kernel_has_it(stand: Stand) -> None:
    assert attach([NEAR])[0].hook is HookKind.TCX
    assert len(syscall.tcx_programs(stand.index)) == 1


@both_hooks
def test_changing_the_hook_leaves_one_program_and_a_refused_change_all_as_it_was(stand: Stand, kind: HookKind) -> None:
    before = stand.snapshot()
    (other,) = set(HOOKS) - {kind}
    attach([NEAR], kind)
    if other is HookKind.TCX and not TcxHook.supported(stand.index):
        attached = stand.snapshot()
        with pytest.raises(RefusedError):
            attach([NEAR], other)
        assert stand.snapshot() == attached
    else:
        assert [(a.change, a.hook) for a in attach([NEAR], other)] == [("replaced", other)]
        assert status().devices[0].hook is other
        programs = (len(tcx_programs(stand.index)), clsact.our_program(stand.index) is not None)
        assert programs == ((1, False) if other is HookKind.TCX else (0, True))
    detach([NEAR])
    assert stand.snapshot() == before


@both_hooks
def test_two_devices_and_the_second_does_not_exist(stand: Stand, kind: HookKind) -> None:
    before = stand.snapshot()
    with pytest.raises(RefusedError, match=r"^nosuch0: no such device"):
        attach([NEAR, "nosuch0"], kind)
    assert stand.snapshot() == before
    assert not folder().exists()


def test_two_devices_and_the_second_refuses(stand: Stand) -> None:
    stand.sender.run(["tc", "qdisc", "add", "dev", "lo", "ingress"])
    before = stand.snapshot(NEAR, "lo")
    with pytest.raises(RefusedError):
        attach([NEAR, "lo"], HookKind.CLSACT)
    assert stand.snapshot(NEAR, "lo") == before
    assert not folder().exists()


@both_hooks
def test_two_devices_come_and_go_alone(stand: Stand, kind: HookKind) -> None:
    attach([NEAR, "lo"], kind)
    set_passtos(True)
    detach(["lo"])
    assert devices() == {NEAR: DeviceState.ATTACHED}
    assert passtos()
    assert stamped(stand) == [EF.value]
    detach([NEAR])


def test_a_device_named_twice_is_attached_once(stand: Stand) -> None:
    attach([NEAR, NEAR])
    assert our_programs(stand.index) == 1
    detach([NEAR])
    assert our_programs(stand.index) == 0


@both_hooks
def test_an_upgrade_keeps_switch_policy_flows_and_counters(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    set_passtos(True)
    policy = Policy.identity().replaced({EF: Rule(Dscp.parse("AF41"), priority=4)})
    with open_state() as state:
        state.policy.write(policy)
    with stand.tunnel() as tunnel:
        tunnel.send(1)
        before = status()
        with another_version() as loader:
            assert [a.change for a in attach([NEAR], kind, loader=loader)] == ["replaced"]
        after = status()
        tunnel.send(2)
        last = status()
    assert (after.passtos, after.policy) == (True, policy)
    assert [flow.key for flow in after.flows] == [flow.key for flow in before.flows] == [tunnel.key]
    assert after.devices[0].counters.outer == before.devices[0].counters.outer
    assert before.devices[0].program is not None
    assert after.devices[0].program is not None
    assert after.devices[0].program.tag != before.devices[0].program.tag
    marked = [state.devices[0].counters.outer[Dscp.parse("AF41")].packets for state in (before, after, last)]
    assert marked == [1, 1, 2]


@both_hooks
def test_state_outlives_a_detach_while_a_tunnel_runs(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    set_passtos(True)
    with stand.tunnel() as tunnel, stand.watching() as wire:
        detach([NEAR])
        tunnel.send(1)
        attach([NEAR], kind)
        tunnel.send(2)
        set_passtos(True)
        tunnel.send(3)
        assert [frame.dscp for frame in wire.wait_for(lambda frames: len(frames) == 3)] == [0, 0, EF.value]


def test_maps_of_another_layout_are_refused_and_left_working(stand: Stand) -> None:
    attach([NEAR])
    before = stand.snapshot()
    with open_state() as state:
        state.control._fields[0] += 1
    with pytest.raises(RefusedError, match="another layout"):
        attach([NEAR])
    assert stand.snapshot() == before
    detach_all()
    attach([NEAR])
    assert devices() == {NEAR: DeviceState.ATTACHED}


@both_hooks
def test_detach_of_nothing(stand: Stand, kind: HookKind) -> None:
    with pytest.raises(NotAttachedError):
        detach([NEAR])
    with pytest.raises(RefusedError, match="no such device"):
        detach(["nosuch0"])
    with pytest.raises(NotAttachedError):
        detach_all()
    attach([NEAR], kind)
    before = stand.snapshot()
    with pytest.raises(NotAttachedError):
        detach([NEAR, "lo"])
    assert stand.snapshot() == before


def test_two_attaches_at_once_take_turns(stand: Stand) -> None:
    for argv in (["attach", NEAR], ["attach", NEAR, "--hook", "clsact"], ["detach", NEAR]):
        processes = [
            stand.sender.popen([str(COMMAND), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
        ]
        said = [(process.communicate(timeout=60), process.returncode) for process in processes]
        codes = sorted(code for _, code in said)
        out = "".join(out for (out, _), _ in said)
        if argv[0] == "attach":
            assert codes == [0, 0], said
            assert len(re.findall("already", out)) == 1, said
            assert list(devices().values()) == [DeviceState.ATTACHED]
        else:
            assert codes == [0, 3], said
