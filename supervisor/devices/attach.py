"""Attaching and detaching: the counterparts of `qosctl attach` and `qosctl detach`.

Every call opens, acts and closes; the pins and the kernel's hooks are the state. Half an attach does not exist: whatever
step a killed call reached, `status` tells the truth and the next call converges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qosctl.bpf.errors import NotAttachedError, RefusedError, kernel_errors
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.load.loader import LOADER, Loader
from qosctl.bpf.maps.device_pins import DevicePins, pinned_devices, pins_of
from qosctl.bpf.maps.namespace_maps import create_state, folder, open_state, release_state
from qosctl.bpf.maps.policy import Policy
from qosctl.supervisor.devices import hooks, inner_side, interfaces
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.interfaces import Interface
from qosctl.supervisor.process import interrupts


@dataclass(frozen=True)
class Attached:
    """What one attach came to: `change` is "attached", "replaced" (another program was there) or "already"."""

    device: str
    hook: HookKind
    change: str


@dataclass(frozen=True)
class Detached:
    """What one detach came to; `gone` when the device itself had vanished before."""

    device: str
    gone: bool


def attach(
    names: Sequence[str], hook: HookKind = HookKind.AUTO, *, keep_switch: bool = False, loader: Loader = LOADER
) -> list[Attached]:
    """Attach the program to the egress of each device, or bring it up to date there.

    passtos stays as it is where something is attached already, and is off otherwise; `keep_switch` is for a supervisor,
    which attaches again what was lost: it stays as it is wherever there are maps. All names are checked before anything
    is done. Raises RefusedError (no such device, the kernel or the loader says no) and NoPermissionError.
    """
    devices = [interfaces.find(name) for name in names]
    bpffs.ensure_mounted()
    with bpffs.locked(), interrupts.held() as obey_ctrl_c, kernel_errors("attach"):
        create_state()
        try:
            if not keep_switch:
                _switch_off_if_first()
            plan = inner_side.plan()
            inner_side.provide(plan)
            done = _attach_each(devices, hook, loader, obey_ctrl_c)
            inner_side.bring_up_to_date(plan, loader)
            return done
        finally:
            release_state()


def detach(names: Sequence[str]) -> list[Detached]:
    """Take the program off these devices; NotAttachedError, before anything is done, where it is not on one of them."""
    with bpffs.locked(), interrupts.held(), kernel_errors("detach"):
        try:
            pinned = [_pinned(name) for name in names]
        except NotAttachedError:
            release_state()  # a detach may have been killed just before this
            raise
        return _detach(pinned)


def detach_all() -> list[Detached]:
    """Take the program off all devices of this namespace, switch off, and forget the policy and what is followed.

    The maps stay while a tunnel is up, so that it is marked again after the next attach; maps of another layout go at once.
    """
    with bpffs.locked(), interrupts.held(), kernel_errors("detach"):
        pinned = list(pinned_devices())
        if not pinned:
            release_state()
            raise NotAttachedError("nothing is attached in this network namespace")
        ours = _reset()  # first, so that whoever is killed on the way can do it again
        done = [_detach_one(pins) for pins in pinned]
        if ours:
            release_state()
        else:
            bpffs.discard(folder())
        return done


def bring_all_up_to_date(loader: Loader) -> None:
    """Give each device that has a program of ours today's, where it stands. Callers hold the lock."""
    for pins in list(pinned_devices()):
        name = interfaces.name_of(pins.index)
        hook = hooks.in_use(pins) if name is not None else None
        if name is not None and hook is not None:
            _hook_up(interfaces.find(name), hook.kind, pins, loader)


def _reset() -> bool:
    """Switch off and forget the policy; False where the maps are of another layout."""
    try:
        with open_state() as state:
            state.control.passtos = False
            state.policy.write(Policy.identity())
        inner_side.take_away()
    except RefusedError:
        return False
    return True


def _detach(pinned: list[DevicePins]) -> list[Detached]:
    done = [_detach_one(pins) for pins in pinned]
    release_state()
    return done


def _switch_off_if_first() -> None:
    if not any(hooks.in_use(pins) for pins in pinned_devices()):
        with open_state() as state:
            state.control.passtos = False


def _attach_each(
    devices: Sequence[Interface], kind: HookKind, loader: Loader, obey_ctrl_c: Callable[[], None]
) -> list[Attached]:
    """Attach to all of them or to none: what this call attached goes again when a later device refuses, or at Ctrl-C."""
    done: list[Attached] = []
    try:
        for device in devices:
            done.append(_attach_one(device, kind, loader))
            obey_ctrl_c()
    except BaseException:
        new = {result.device for result in done if result.change == "attached"}
        _detach([pins_of(device.index) for device in devices if device.name in new])
        raise
    return done


def _attach_one(device: Interface, kind: HookKind, loader: Loader) -> Attached:
    _forget_gone(device.name)
    pins = pins_of(device.index)
    pins.create(device.name)
    try:
        return _hook_up(device, kind, pins, loader)
    except BaseException:
        if hooks.in_use(pins) is None:
            _detach_one(pins)
        raise


def _hook_up(device: Interface, kind: HookKind, pins: DevicePins, loader: Loader) -> Attached:
    used, change = hooks.put(kind, pins, lambda: loader.load(folder(), pins.path, ethernet=device.ethernet))
    return Attached(device.name, used.kind, change)


def _forget_gone(name: str) -> None:
    """Drop the pins of an earlier device of this name, which was deleted or moved away."""
    for pins in list(pinned_devices()):
        if interfaces.name_of(pins.index) is None and pins.was_attached_as(name):
            _detach_one(pins)


def _pinned(name: str) -> DevicePins:
    index = interfaces.find(name).index if interfaces.exists(name) else None
    for pins in pinned_devices():
        gone = interfaces.name_of(pins.index) is None
        if pins.index == index or (index is None and gone and pins.was_attached_as(name)):
            return pins
    if index is None:
        raise RefusedError(f"{name}: no such device", "ip link")
    raise NotAttachedError(f"{name}: nothing of ours is attached", "qosctl status")


def _detach_one(pins: DevicePins) -> Detached:
    name = interfaces.name_of(pins.index)
    attached_as = pins.device_name()
    hooks.take_off(pins, there=name is not None)
    return Detached(name or attached_as, gone=name is None)
