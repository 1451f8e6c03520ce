"""One network namespace's maps: made once, whole or not at all, and removed when they are no longer used.

`attach` or a client makes them, whichever comes first, so marking starts as soon as both are there. They stay while a
device is attached, a flow exists, a tunnel of another program is followed, or the operator has set a policy of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qosctl.bpf.abi import CONTROL, LAYOUT_VERSION, POLICY_BANKS, POLICY_ENTRY
from qosctl.bpf.dscp import DSCP_COUNT
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.bpf.flow_page.flow_pins import FlowPins
from qosctl.bpf.kernel import bpffs, netns, syscall
from qosctl.bpf.maps.flows import RINGS_SHAPE, SLOTS_SHAPE, Flows
from qosctl.bpf.maps.policy import Policy, PolicyTable
from qosctl.bpf.maps.ring import RING_SHAPE
from qosctl.bpf.maps.switch import Control, SwitchReader

CONTROL_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, CONTROL.size, 1, syscall.F_MMAPABLE)
POLICY_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, POLICY_ENTRY.size, POLICY_BANKS * DSCP_COUNT, syscall.F_MMAPABLE)
_SHAPES = {"control": CONTROL_SHAPE, "policy": POLICY_SHAPE, "flow_slots": SLOTS_SHAPE, "rings": RINGS_SHAPE}
FOLLOW = "follow"
"""The folder in a namespace's state that is there while tunnels of others are followed (following.py)."""


def folder() -> Path:
    """Return where this network namespace's pins are, or would be."""
    return bpffs.ROOT / str(netns.cookie())


def flow_pins(state: Path) -> FlowPins:
    """Return the pins of the flows in a namespace's folder."""
    return FlowPins(state / "flows")


class State:
    """The opened maps of one namespace: `control`, `policy`, `flows`. Use it in a `with open_state() as state`."""

    def __init__(self, control: Control, policy: PolicyTable, flows: Flows) -> None:
        self.control = control
        self.policy = policy
        self.flows = flows


@contextmanager
def open_state() -> Iterator[State]:
    """Open this namespace's maps; NotAttachedError where there are none, RefusedError on another layout."""
    path = folder()
    with ExitStack() as stack:
        try:
            if not bpffs.present(path):
                raise _nothing_here()
            fds = {name: _open(path / name, stack) for name in _SHAPES}
        except FileNotFoundError:
            raise _nothing_here() from None
        except PermissionError:
            raise bpffs.no_permission() from None
        _check_layout(fds)
        control = stack.enter_context(Control(fds["control"]))
        if control.layout != LAYOUT_VERSION:
            raise _other_layout()
        policy = PolicyTable(fds["policy"], control)
        stack.callback(policy.close)
        flows = stack.enter_context(Flows(fds["flow_slots"], fds["rings"], flow_pins(path)))
        yield State(control, policy, flows)


def open_switch() -> SwitchReader:
    """Open this namespace's switch for reading; NotAttachedError where there are no maps."""
    try:
        if not bpffs.present(folder()):
            raise _nothing_here()
        return SwitchReader(syscall.obj_get(str(folder() / "control"), read_only=True))
    except FileNotFoundError:
        raise _nothing_here() from None
    except PermissionError:
        raise bpffs.no_permission() from None


def create_state() -> None:
    """Make this namespace's maps where they are missing. Callers hold the lock."""
    path = folder()
    new = bpffs.building_place(path)
    try:
        if bpffs.present(path):
            return
        new.mkdir(mode=0o700)
        flow_pins(new).path.mkdir(mode=0o700)
        netns.pin_witness(str(new / bpffs.WITNESS))
        _create_maps(new)
        new.rename(path)
    except PermissionError:
        raise bpffs.no_permission() from None


def release_state() -> bool:
    """Remove this namespace's maps if nothing uses them; say whether they are gone. Callers hold the lock."""
    path = folder()
    if not bpffs.present(path):
        return True
    with open_state() as state:
        state.flows.reap()
        used = any(path.glob("devices/[0-9]*")) or any(state.flows.keys()) or (path / FOLLOW).exists()
        in_use = used or state.policy.read() != Policy.identity()
    if not in_use:
        bpffs.discard(path)
    return not in_use


def _create_maps(where: Path) -> None:
    with ExitStack() as stack:
        template = syscall.map_create(RING_SHAPE, "ring")
        stack.callback(os.close, template)
        fds = {}
        for name, shape in _SHAPES.items():
            fds[name] = syscall.map_create(shape, name, inner_fd=template if shape is RINGS_SHAPE else 0)
            stack.callback(os.close, fds[name])
            syscall.obj_pin(fds[name], str(where / name))
        control = stack.enter_context(Control(fds["control"]))
        control.initialise()
        policy = PolicyTable(fds["policy"], control)
        policy.write(Policy.identity())
        policy.close()


def _open(path: Path, stack: ExitStack) -> int:
    fd = syscall.obj_get(str(path))
    stack.callback(os.close, fd)
    return fd


def _check_layout(fds: dict[str, int]) -> None:
    if any(syscall.map_info(fds[name]).shape != shape for name, shape in _SHAPES.items()):
        raise _other_layout()


def _nothing_here() -> NotAttachedError:
    return NotAttachedError("nothing is attached in this network namespace", "qosctl attach IFACE")


def _other_layout() -> RefusedError:
    return RefusedError(
        f"the maps here were made by a qosctl of another layout than {LAYOUT_VERSION}",
        "qosctl detach --all, then attach again; running tunnels must reconnect",
    )
