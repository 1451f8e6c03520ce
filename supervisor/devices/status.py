"""What is so, read from the kernel at the moment of asking: the counterpart of `qosctl status` and `qosctl flows`."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.errors import NotAttachedError, kernel_errors
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.kernel.syscall import ProgramInfo
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.device_pins import DevicePins, pinned_devices
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.policy import Policy
from qosctl.supervisor.devices import hooks, interfaces
from qosctl.supervisor.devices.follow import NOTHING_FOLLOWED, Following, following
from qosctl.supervisor.devices.hooks import HookKind

_SECOND_LOOK_AFTER_S = 0.01  # a command takes its pins away in less


class DeviceState(enum.Enum):
    """What became of a device that was attached."""

    ATTACHED = "attached"
    DETACHED = "detached"  # the device is there, our program is not: someone removed it, or an attach was killed
    GONE = "gone"  # the device was deleted, or moved to another namespace


@dataclass(frozen=True)
class DeviceStatus:
    """One device. `hook` and `program` are None unless attached; `ahead` is what others run before our program."""

    name: str
    index: int
    state: DeviceState
    hook: HookKind | None
    program: ProgramInfo | None
    ahead: Sequence[hooks.Foreign]
    counters: DeviceCounters


@dataclass(frozen=True)
class Status:
    """All of one network namespace."""

    passtos: bool
    policy: Policy
    devices: Sequence[DeviceStatus]
    flows: Sequence[Flow]
    following: Following = NOTHING_FOLLOWED


def status() -> Status:
    """Read everything; where nothing is attached, an empty Status, switched off.

    NoPermissionError without privilege.
    """
    nothing = Status(passtos=False, policy=Policy.identity(), devices=(), flows=())
    with kernel_errors("status"):
        if not bpffs.present(folder()):
            return nothing
        devices = tuple(device for pins in pinned_devices() if (device := _device_or_none(pins)) is not None)
        try:
            with open_state() as state:
                return Status(state.control.passtos, state.policy.read(), devices, tuple(state.flows), following())
        except NotAttachedError:  # the last was detached while we looked
            return nothing


def flows() -> Sequence[Flow]:
    """Read the flows of this network namespace, none where there is no state."""
    with kernel_errors("flows"):
        if not bpffs.present(folder()):
            return ()
        with open_state() as state:
            return tuple(state.flows)


def _device_or_none(pins: DevicePins) -> DeviceStatus | None:
    """Return the device, or None where it was detached while we looked: pins go one by one."""
    try:
        return _device(pins)
    except FileNotFoundError:
        time.sleep(_SECOND_LOOK_AFTER_S)
        return _device(pins) if pins.path.exists() else None


def _device(pins: DevicePins) -> DeviceStatus:
    name = interfaces.name_of(pins.index)
    hook = hooks.in_use(pins) if name is not None else None
    program_id = hook.attached() if hook is not None else None
    return DeviceStatus(
        name=name or pins.device_name(),
        index=pins.index,
        state=_state(name, hook),
        hook=hook.kind if hook is not None else None,
        program=pins.program_info(program_id) if program_id is not None else None,
        ahead=tuple(hook.ahead()) if hook is not None else (),
        counters=pins.read_counters(),
    )


def _state(name: str | None, hook: hooks.Hook | None) -> DeviceState:
    if name is None:
        return DeviceState.GONE
    return DeviceState.DETACHED if hook is None else DeviceState.ATTACHED
