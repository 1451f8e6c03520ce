"""What status says beside what is: programs ahead of ours, flows and their owners, nothing at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from qosctl.bpf.dscp import EF
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.devices.attach import attach, detach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import DeviceState, flows, status

from tests.lab.wire import NEAR, PORTS, Stand, both_hooks, devices, foreign_program, pinned, stamped

TC_ACT_OK = 0


@pytest.mark.usefixtures("stand")
def test_nothing_is_a_fine_state() -> None:
    said = status()
    assert (said.passtos, said.devices, said.flows, said.policy) == (False, (), (), Policy.identity())
    assert flows() == ()
    assert not folder().exists(), "asking makes nothing"


@both_hooks
def test_the_program_is_the_one_that_the_kernel_runs(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    (device,) = status().devices
    assert (device.name, device.index, device.state, device.hook) == (NEAR, stand.index, DeviceState.ATTACHED, kind)
    assert device.program is not None
    shown = stand.sender.run(["bpftool", "prog", "show", "id", str(device.program.id)]).stdout
    assert f"tag {device.program.tag}" in shown
    assert device.program.name in shown


@both_hooks
def test_counters_are_what_was_sent(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    set_passtos(True)
    assert stamped(stand, 5) == [EF.value] * 5
    (device,) = status().devices
    assert device.counters.outcomes[Outcome.STAMPED] == 5
    assert device.counters.outer[EF].packets == 5
    assert device.counters.outer[EF].bytes == 5 * (14 + 20 + 8 + 13 + len(b"sealed"))


@both_hooks
def test_a_program_ahead_that_ends_the_chain_is_seen(stand: Stand, kind: HookKind) -> None:
    """Ours never runs then, and status is where one learns why."""
    attach([NEAR], kind)
    set_passtos(True)
    (device,) = status().devices
    assert list(device.ahead) == []
    program = foreign_program(ttl=77, verdict=TC_ACT_OK)
    link = syscall.link_create_tcx_first(program, stand.index)
    assert stamped(stand) == [0]
    (device,) = status().devices
    assert device.state is DeviceState.ATTACHED
    assert [foreign.where for foreign in device.ahead] == [HookKind.TCX]
    os.close(link)
    assert stamped(stand) == [EF.value]
    (device,) = status().devices
    assert list(device.ahead) == []
    os.close(program)


def test_a_filter_ahead_that_ends_the_chain_is_seen(stand: Stand) -> None:
    attach([NEAR], HookKind.CLSACT)
    set_passtos(True)
    program = foreign_program(ttl=77, verdict=TC_ACT_OK)
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "filter", "add", "dev", NEAR, "egress", "prio", "1", "bpf", "da", "pinned", str(path)])
    assert stamped(stand) == [0]
    (device,) = status().devices
    assert [foreign.where for foreign in device.ahead] == [HookKind.CLSACT]
    path.unlink()
    os.close(program)


def test_a_program_behind_is_nobodys_business(stand: Stand) -> None:
    program = foreign_program(ttl=77)
    link = syscall.link_create_tcx_first(program, stand.index)
    attach([NEAR], HookKind.TCX)
    assert list(status().devices[0].ahead) == []
    os.close(link)
    os.close(program)


def test_flows_name_their_owner(stand: Stand) -> None:
    attach([NEAR])
    with stand.tunnel(6) as tunnel:
        (flow,) = flows()
        assert flow.key == tunnel.key
        assert flow.owner.pid == os.getpid()
        assert flow.alive
        assert flow.owner.tunnel == "tun-test"
    assert flows() == ()


ORPHAN = f"""
import os, signal
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.maps.namespace_maps import open_state
ring = Ring(Owner(os.getpid(), 0, "tun-dead", "server.example"))
with open_state() as state:
    state.flows.add(FlowKey(("192.0.2.1", 5), ("192.0.2.2", {PORTS[1]})), ring)
    print("ready", flush=True)
    signal.pause()
"""


def test_a_flow_whose_owner_died_is_shown_so_and_cleared_by_the_next_command(stand: Stand) -> None:
    attach([NEAR])
    owner = stand.sender.popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    assert [flow.alive for flow in flows()] == [True]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert [flow.alive for flow in flows()] == [False]
    detach([NEAR])
    assert not folder().exists()


@pytest.mark.parametrize("removed", ["counters", "program", "link"])
def test_attach_mends_what_somebody_removed(stand: Stand, removed: str) -> None:
    attach([NEAR], HookKind.TCX if removed == "link" else HookKind.CLSACT)
    (folder() / "devices" / str(stand.index) / removed).unlink()
    if removed != "counters":
        assert devices() == {NEAR: DeviceState.DETACHED if removed == "link" else DeviceState.ATTACHED}
    attach([NEAR])
    set_passtos(True)
    assert devices() == {NEAR: DeviceState.ATTACHED}
    assert stamped(stand) == [EF.value]
    assert status().devices[0].counters.outer[EF].packets == 1
    detach([NEAR])
    assert not folder().exists()
