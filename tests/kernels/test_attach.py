"""Attach, stamp and detach with what the kernel at hand has: TCX, or clsact where there is none."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices.attach import attach, detach, detach_all
from qosctl.supervisor.devices.hooks import HookKind, TcxHook
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import DeviceState

from tests.lab.packets import record
from tests.lab.wire import ADDRESSES, NEAR, PORTS, Stand, devices, stamped, stand

EF = 46


@pytest.fixture(name="stand")
def stand_fixture() -> Iterator[Stand]:
    with stand() as built:
        yield built


def hooks_of(stand: Stand) -> str:
    asked = (["qdisc", "show", "dev", NEAR], ["filter", "show", "dev", NEAR, "egress"])
    said: list[subprocess.CompletedProcess[str]] = [stand.sender.run(["tc", *words]) for words in asked]
    return "".join(done.stdout for done in said)


def test_the_best_hook_of_this_kernel_is_taken_and_given_back(stand: Stand) -> None:
    before = hooks_of(stand)
    (first,) = attach([NEAR])
    assert first.hook is (HookKind.TCX if TcxHook.supported(stand.index) else HookKind.CLSACT)
    assert first.change == "attached"
    (second,) = attach([NEAR])
    assert second.change == "already"
    assert devices() == {NEAR: DeviceState.ATTACHED}
    detach([NEAR])
    assert hooks_of(stand) == before
    assert not folder().exists()


def test_records_are_stamped_while_it_is_on(stand: Stand) -> None:
    attach([NEAR])
    assert stamped(stand) == [0]
    set_passtos(True)
    assert stamped(stand, 20) == [EF] * 20
    set_passtos(False)
    assert stamped(stand) == [0]
    detach_all()
    assert stamped_without_us(stand) == [0]


def stamped_without_us(stand: Stand) -> list[int]:
    """The maps are gone, so a record is sent as any other datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, stand.watching() as wire:
        sender.sendto(record(1), (ADDRESSES[4][1], PORTS[1]))
        return [frame.dscp for frame in wire.wait_for(lambda frames: len(frames) == 1)]


def test_a_hook_that_the_kernel_lacks_is_refused_and_leaves_nothing(stand: Stand) -> None:
    before = hooks_of(stand)
    if TcxHook.supported(stand.index):
        attach([NEAR], HookKind.TCX)
        assert devices() == {NEAR: DeviceState.ATTACHED}
        detach([NEAR])
    else:
        with pytest.raises(RefusedError):
            attach([NEAR], HookKind.TCX)
        assert devices() == {}
    assert hooks_of(stand) == before
