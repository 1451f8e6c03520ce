"""Other people's filters and programs on the same device: they run, they stay, and they may take ours away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from qosctl.bpf.dscp import EF
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.attach import attach, detach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import DeviceState

from tests.lab.wire import (
    NEAR,
    Stand,
    both_hooks,
    devices,
    foreign_program,
    pinned,
    stamped,
)

Neighbour = Callable[[Stand], AbstractContextManager[None]]


@contextmanager
def nobody_else(_: Stand) -> Iterator[None]:
    yield


@contextmanager
def a_foreign_filter(stand: Stand) -> Iterator[None]:
    program = foreign_program(ttl=77)
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    stand.sender.run(["tc", "filter", "add", "dev", NEAR, "egress", "bpf", "da", "pinned", str(path)])
    yield
    os.close(program)
    path.unlink()


@contextmanager
def a_foreign_filter_of_our_priority(stand: Stand) -> Iterator[None]:
    program = foreign_program(ttl=77)
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    stand.sender.run(
        ["tc", "filter", "add", "dev", NEAR, "egress", "prio", str(clsact.PRIORITY), "bpf", "da", "pinned", str(path)]
    )
    yield
    os.close(program)
    path.unlink()


@contextmanager
def a_foreign_ingress_filter(stand: Stand) -> Iterator[None]:
    match = ["u32", "match", "u32", "0", "0", "flowid", "1:1"]
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    stand.sender.run(["tc", "filter", "add", "dev", NEAR, "ingress", "protocol", "ip", "prio", "7", *match])
    yield


@contextmanager
def an_empty_clsact(stand: Stand) -> Iterator[None]:
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    yield


@contextmanager
def a_foreign_tcx_program(stand: Stand) -> Iterator[None]:
    program = foreign_program(ttl=77)
    link = syscall.link_create_tcx_first(program, stand.index)
    yield
    os.close(link)
    os.close(program)


@contextmanager
def a_foreign_filter_in_place(stand: Stand) -> Iterator[None]:
    program = foreign_program(ttl=77)
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "filter", "add", "dev", NEAR, "egress", "prio", "9", "bpf", "da", "pinned", str(path)])
    yield
    os.close(program)
    path.unlink()


NEIGHBOURS: list[Neighbour] = [
    nobody_else, a_foreign_filter, a_foreign_filter_of_our_priority, a_foreign_ingress_filter, an_empty_clsact,
    a_foreign_tcx_program,
]  # fmt: skip
RUNNING_NEIGHBOURS: list[Neighbour] = [a_foreign_filter, a_foreign_filter_of_our_priority, a_foreign_tcx_program]


@both_hooks
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_detach_leaves_the_device_as_attach_found_it(stand: Stand, kind: HookKind, neighbour: Neighbour) -> None:
    with neighbour(stand):
        before = stand.snapshot()
        assert [(a.device, a.hook, a.change) for a in attach([NEAR], kind)] == [(NEAR, kind, "attached")]
        assert stand.snapshot() != before
        detach([NEAR])
        assert stand.snapshot() == before
        assert not folder().exists()


@both_hooks
@pytest.mark.parametrize("neighbour", RUNNING_NEIGHBOURS)
def test_a_neighbour_runs_before_during_and_after(stand: Stand, kind: HookKind, neighbour: Neighbour) -> None:
    def seen() -> tuple[int, int]:
        """The time to live, which the neighbour writes, and the DSCP, which we write."""
        with stand.watching() as wire:
            tunnel.send(1)
            (frame,) = wire.wait_for(bool)
        return frame.header[8], frame.dscp

    with neighbour(stand):
        attach([NEAR], kind)
        with stand.tunnel() as tunnel:
            detach([NEAR])
            assert seen() == (77, 0)
            attach([NEAR], kind)
            assert seen() == (77, 0)
            set_passtos(True)
            assert seen() == (77, EF.value)
            detach([NEAR])
            assert seen() == (77, 0)


@both_hooks
def test_detach_keeps_a_clsact_that_others_use_by_now(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"], check=kind is HookKind.TCX)
    with a_foreign_filter_in_place(stand):
        detach([NEAR])
        assert "bpf" in stand.sender.run(["tc", "filter", "show", "dev", NEAR, "egress"]).stdout


def test_a_filter_in_our_very_place_is_not_overwritten(stand: Stand) -> None:
    program = foreign_program(ttl=77)
    place = ["prio", str(clsact.PRIORITY), "handle", str(clsact.HANDLE)]
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    path = pinned(program, "foreign_filter")
    stand.sender.run(["tc", "filter", "add", "dev", NEAR, "egress", *place, "bpf", "da", "pinned", str(path)])
    before = stand.snapshot()
    with pytest.raises(RefusedError, match="somebody else's"):
        attach([NEAR], HookKind.CLSACT)
    assert stand.snapshot() == before
    assert devices() == {}
    os.close(program)
    path.unlink()


def test_a_filter_that_comes_while_ours_is_put_there_is_not_overwritten(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at our place and what goes there somebody else may be faster."""
    program = foreign_program(ttl=77)
    path = pinned(program, "foreign_filter")
    place = ["prio", str(clsact.PRIORITY), "handle", str(clsact.HANDLE)]
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    add = ["tc", "filter", "add", "dev", NEAR, "egress", *place, "bpf", "da", "pinned", str(path)]
    filters = clsact._filters

    def somebody_comes(ip: object, index: int, parent: int) -> list[object]:
        seen = filters(ip, index, parent)
        stand.sender.run(add, check=False)
        return seen

    monkeypatch.setattr(clsact, "_filters", somebody_comes)
    with pytest.raises(RefusedError, match="somebody else's"):
        clsact.replace_filter(stand.index, program)
    assert "foreign_filter" in stand.sender.run(["tc", "filter", "show", "dev", NEAR, "egress"]).stdout
    os.close(program)
    path.unlink()


def test_an_attach_that_the_kernel_refuses_leaves_nothing(stand: Stand) -> None:
    """Another kind of filter under our priority: the kernel does not mix kinds."""
    match = ["u32", "match", "u32", "0", "0", "flowid", "1:1"]
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    stand.sender.run(
        ["tc", "filter", "add", "dev", NEAR, "egress", "prio", str(clsact.PRIORITY), "protocol", "all", *match]
    )
    before = stand.snapshot()
    with pytest.raises(RefusedError):
        attach([NEAR], HookKind.CLSACT)
    assert stand.snapshot() == before
    assert not folder().exists()


def test_an_old_ingress_qdisc_is_in_the_way_of_clsact_only(stand: Stand) -> None:
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "ingress"])
    before = stand.snapshot()
    with pytest.raises(RefusedError):
        attach([NEAR], HookKind.CLSACT)
    assert stand.snapshot() == before
    attach([NEAR], HookKind.TCX)
    detach([NEAR])
    assert stand.snapshot() == before


@both_hooks
def test_pins_removed_by_somebody_else(stand: Stand, kind: HookKind) -> None:
    """A filter survives its pins, with maps that nobody can reach any more: attach must not take it for its own."""
    attach([NEAR], kind)
    subprocess.run(["rm", "-r", str(folder())], check=True)
    assert devices() == {}
    attach([NEAR], kind)
    set_passtos(True)
    assert stamped(stand) == [EF.value]
    detach([NEAR])
    assert syscall.tcx_programs(stand.index) == []
    assert clsact.our_program(stand.index) is None


@pytest.mark.parametrize("removal", ["filter", "qdisc", "link"])
def test_somebody_took_the_program_off(stand: Stand, removal: str) -> None:
    kind = HookKind.TCX if removal == "link" else HookKind.CLSACT
    before = stand.snapshot()
    attach([NEAR], kind)
    if removal == "filter":
        stand.sender.run(["tc", "filter", "del", "dev", NEAR, "egress"])
    elif removal == "qdisc":
        stand.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
    else:
        link = syscall.obj_get(str(pins_of(stand.index).link))
        syscall.link_detach(link)
        os.close(link)
    assert devices() == {NEAR: DeviceState.DETACHED}
    attach([NEAR], kind)
    assert devices() == {NEAR: DeviceState.ATTACHED}
    detach([NEAR])
    assert stand.snapshot() == before
