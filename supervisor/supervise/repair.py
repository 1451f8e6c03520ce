"""What the supervisor does itself, in milliseconds and without bcc. Each call opens, acts and closes, as commands do."""

from __future__ import annotations

from qosctl.bpf.errors import NotAttachedError, RefusedError, kernel_errors
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import folder, open_state, release_state
from qosctl.bpf.maps.policy import Policy
from qosctl.supervisor.devices import hooks, interfaces
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.process import locked_file


def reattach(index: int, kind: HookKind) -> bool:
    """Put the device's pinned program back to its hook; False where it stands there after all.

    RefusedError where that program is gone or belongs to other maps than the present ones: attach then.
    """
    pins = pins_of(index)
    with bpffs.locked(), kernel_errors("repair"):
        try:
            program = syscall.obj_get(str(pins.program))
        except FileNotFoundError:
            raise RefusedError("the pinned program is gone") from None
        with opened(program):
            if not {_map_id(str(pins.counters)), _map_id(str(folder() / "control"))} <= syscall.program_maps(program):
                raise RefusedError("the pinned program belongs to other maps")
            hook = hooks.choose(kind, pins)
            if hook.attached() == syscall.program_info(program).id:
                return False
            hook.attach(program)
    return True


def drop_pins(index: int) -> None:
    """Drop the pins of a device that is gone, and the maps with them if this was their last use."""
    with bpffs.locked(), kernel_errors("forget"):
        if interfaces.name_of(index) is None:
            pins_of(index).remove()
            release_state()


def apply_settings(policy: Policy | None, passtos: bool | None) -> bool:
    """Set policy and switch where they are given and differ; say whether anything did.

    The policy comes first, and going off before it: a class that must not leave does not leave meanwhile.
    """
    changed = False
    with bpffs.locked(), kernel_errors("settings"), open_state() as state:
        if passtos is False and state.control.passtos:
            state.control.passtos = False
            changed = True
        if policy is not None and state.policy.read() != policy:
            state.policy.write(policy)
            changed = True
        if passtos is True and not state.control.passtos:
            state.control.passtos = True
            changed = True
    return changed


def reap() -> int:
    """Remove the flows of dead owners, and the maps if they were their last use; return how many flows there were.

    The pins of namespaces that are gone go as well, and what tunnels there left to be undone.
    """
    locked_file.sweep()
    with kernel_errors("reap"):
        try:
            if bpffs.litter():
                with bpffs.locked():
                    pass  # whoever takes it sweeps
            with open_state() as state:
                if not state.flows.orphans():
                    return 0
            with bpffs.locked():
                with open_state() as state:
                    reaped = state.flows.reap()
                release_state()
        except NotAttachedError:
            return 0
    return reaped


def _map_id(pin: str) -> int:
    with opened(syscall.obj_get(pin)) as fd:
        return syscall.map_info(fd).id
