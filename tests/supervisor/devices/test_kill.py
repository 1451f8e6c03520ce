"""SIGKILL at every step of attach, upgrade, change of hook and detach.

A child takes the step and is killed before its n-th change of anything outside itself, for n = 1, 2, ... until it lives
to the end. Changes are: bpf(2) commands that change a map, a pin or a link; folders and names on bpffs; netlink requests.
After each death `status` must say what the wire says, and the same command again must converge.

A small program stands in for ours, with the same switch and counters: this is about the supervisor, and the kernel would
verify the real one some four hundred times.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from qosctl.bpf.dscp import EF
from qosctl.bpf.errors import NotAttachedError
from qosctl.bpf.kernel import bpffs, netns, syscall
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.device_pins import pinned_devices
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.supervisor.devices.attach import Attached, detach, detach_all
from qosctl.supervisor.devices.attach import attach as attach_by
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import passtos, set_passtos
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab.program import changed_sources
from tests.lab.wire import NEAR, Stand, both_hooks, devices, stamped

_CHANGING = frozenset(
    {2, 3, 6, 17, 28, 29, 34}
)  # bpf(2): update, delete, pin, open a tracepoint, create, update, detach a link
_ENOUGH = 60  # steps; more means that a loop has gone wild

_STAND_IN = """
#include <linux/if_ether.h>
#include "abi.h"

#define MAP(descriptor) ((void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, descriptor))

int qosctl_egress(struct __sk_buff *skb)
{
	__u32 only = 0;
	struct control *control = bpf_map_lookup_elem(MAP(CONTROL_MAP), &only);
	struct device_counters *counted = bpf_map_lookup_elem(MAP(COUNTERS_MAP), &only);
	__u8 ef = 46 << 2;

	if (!control || !counted || !control->passtos || skb->protocol != bpf_htons(ETH_P_IP))
		return -1;
	counted->outcomes[OUTCOME_STAMPED]++;
	bpf_skb_store_bytes(skb, 15, &ef, sizeof(ef), 0);
	return -1;
}
"""


Attach = Callable[..., list[Attached]]


@pytest.fixture(name="stand_in")
def stand_in_fixture() -> Iterator[Path]:
    with changed_sources() as sources:
        (sources / "egress.c").write_text(_STAND_IN)
        yield sources


@pytest.fixture(name="attach")
def attach_fixture(stand_in: Path) -> Attach:
    return partial(attach_by, loader=BccLoader(stand_in))


def die_at(step: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that is killed before its `step`-th change; whether it died before the end."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            _count_down(step)
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, waited = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(waited) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(waited)


def _count_down(step: int) -> None:
    left = step

    def before(change: Callable[..., Any], counts: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal left
            if counts(*args, **named):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **named)

        return counted

    syscall._bpf = before(syscall._bpf, lambda command, _: command in _CHANGING)
    for name in ("mkdir", "rename", "unlink", "rmdir", "symlink"):  # pathlib comes to these, too
        setattr(os, name, before(getattr(os, name), _is_a_pin))
    # IPRoute finds its methods by __getattr__; an attribute of the class goes first.
    IPRoute.tc = before(lambda ip, *args, **named: ip.__getattr__("tc")(*args, **named))


def _is_a_pin(path: str | Path, *_: object, dir_fd: int | None = None, **__: object) -> bool:
    below = Path() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
    return (below / path).is_relative_to(bpffs.ROOT)


def each_death(
    action: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, first: int = 1
) -> Iterator[int]:
    """Prepare and die at each step in turn; yields the step after each death, and once for the child that lived."""
    for step in range(first, _ENOUGH):
        prepare()
        died = die_at(step, action)
        yield step
        if not died:
            assert step > first, "nothing was counted"
            return
    pytest.fail(f"still not done after {_ENOUGH} steps")


def tells_the_truth(stand: Stand) -> bool:
    """Whether `near` marks packets, by the wire, when status has said the same."""
    said = devices().get(NEAR) is DeviceState.ATTACHED
    if not folder().exists():
        assert not said
        return False
    with open_state() as state:
        before = state.control.passtos
        state.control.passtos = True
        seen = stamped(stand) == [EF.value]
        state.control.passtos = before
    assert seen == said
    return seen


@both_hooks
def test_attach(stand: Stand, kind: HookKind, attach: Attach) -> None:
    seen = set()
    for step in each_death(lambda: attach([NEAR], kind)):
        seen.add(tells_the_truth(stand))
        attach([NEAR], kind)
        assert devices() == {NEAR: DeviceState.ATTACHED}
        assert not passtos()
        assert tells_the_truth(stand)
        detach([NEAR])
        assert clean(stand), step
    assert seen == {False, True}


@both_hooks
def test_a_killed_attach_can_be_undone(stand: Stand, kind: HookKind, attach: Attach) -> None:
    for step in each_death(lambda: attach([NEAR], kind)):
        if list(pinned_devices()):
            detach([NEAR])
        else:
            with pytest.raises(NotAttachedError):
                detach([NEAR])
        assert clean(stand), step


@both_hooks
def test_upgrade(stand: Stand, kind: HookKind, attach: Attach, stand_in: Path) -> None:
    """At no step is the device without a program, nor the state lost."""
    policy = Policy.identity().replaced({EF: Rule(EF, priority=3)})

    def first() -> None:
        (stand_in / "egress.c").write_text(_STAND_IN)
        attach([NEAR], kind)
        set_passtos(True)
        with open_state() as state:
            state.policy.write(policy)

    def upgrade() -> None:
        (stand_in / "egress.c").write_text(_STAND_IN.replace("++", " += 1 + (skb->mark == 5)"))
        attach([NEAR], kind)

    tags = set()
    for step in each_death(upgrade, first):
        assert tells_the_truth(stand)
        tags.add(tag())
        upgrade()
        assert tells_the_truth(stand)
        tags.add(tag())
        assert (status().passtos, status().policy) == (True, policy)
        detach_all()
        assert clean(stand), step
    assert len(tags) == 2


@both_hooks
def test_change_of_hook(stand: Stand, kind: HookKind, attach: Attach) -> None:
    (other,) = {HookKind.TCX, HookKind.CLSACT} - {kind}
    seen = set()
    for step in each_death(lambda: attach([NEAR], other), lambda: attach([NEAR], kind)):
        assert tells_the_truth(stand)
        seen.add(status().devices[0].hook)
        attach([NEAR], other)
        assert [(device.hook, device.state) for device in status().devices] == [(other, DeviceState.ATTACHED)]
        assert tells_the_truth(stand)
        detach([NEAR])
        assert clean(stand), step
    assert seen == {kind, other}


def test_attach_of_two(stand: Stand, attach: Attach) -> None:
    """Dying after the first and before the second: half of it is done, and the rest can be."""
    halves = 0
    for step in each_death(lambda: attach(["lo", NEAR], HookKind.TCX), first=9):  # the first steps are as with one
        halves += devices() == {"lo": DeviceState.ATTACHED}
        attach(["lo", NEAR], HookKind.TCX)
        assert devices() == {"lo": DeviceState.ATTACHED, NEAR: DeviceState.ATTACHED}
        detach_all()
        assert clean(stand), step
    assert halves > 0


@both_hooks
def test_detach(stand: Stand, kind: HookKind, attach: Attach) -> None:
    seen = set()
    for step in each_death(lambda: detach([NEAR]), lambda: attach([NEAR], kind)):
        seen.add(tells_the_truth(stand))
        if NEAR in devices():
            detach([NEAR])
        else:
            with pytest.raises(NotAttachedError):
                detach([NEAR])
        assert clean(stand), step
    assert seen == {False, True}


@both_hooks
def test_detach_all(stand: Stand, kind: HookKind, attach: Attach) -> None:
    def prepare() -> None:
        attach([NEAR], kind)
        set_passtos(True)
        with open_state() as state:
            state.policy.write(Policy.allow(EF))

    for step in each_death(detach_all, prepare):
        tells_the_truth(stand)
        if devices():
            detach_all()
        else:
            with pytest.raises(NotAttachedError):
                detach_all()
        assert clean(stand), step


def clean(stand: Stand) -> bool:
    """Whether the namespace is as a new one is: no qdisc, filter, program or pin."""
    qdiscs, programs, *rest = stand.snapshot(NEAR, "lo")
    hooks_empty = [qdisc["kind"] for qdisc in qdiscs] == ["noqueue", "noqueue"] and not programs[0]["tc"] and not any(rest)
    # Other namespaces' pins, such as a killed client's of another test, are no business of this one.
    return hooks_empty and not [path for path in bpffs.ROOT.iterdir() if str(netns.cookie()) in path.name.split("_")]


def tag() -> str:
    program = status().devices[0].program
    assert program is not None
    return program.tag
