"""The current state, asked of the kernel: links, what stands at their hooks, and which maps there are."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.errors import RefusedError, kernel_errors
from qosctl.bpf.kernel import syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.device_pins import DevicePins, pinned_devices
from qosctl.bpf.maps.following import follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices import hooks, inner_side, interfaces, tun_reads
from qosctl.supervisor.supervise.reconcile import Link, Observed, Pinned


def observe(wanted: Callable[[str], bool]) -> Observed:
    """Look at everything; `wanted` says of a name whether that device shall be attached. A few milliseconds.

    RefusedError where the kernel refuses, NoPermissionError without privilege.
    """
    with kernel_errors("supervise"):
        names = dict(socket.if_nameindex())
        return Observed(
            names=names,
            links={index: link for index, name in names.items() if wanted(name) and (link := _link(name, index))},
            pinned={pins.index: _pinned(pins, pins.index in names) for pins in pinned_devices()},
            maps=_id_of(folder() / "control"),
            followed=_followed(),
            unserved=_unserved(),
        )


def _link(name: str, index: int) -> Link | None:
    """Return the link, or None where it has gone meanwhile; one of a type unknown to us is left for attach to refuse."""
    try:
        found = interfaces.find(name)
    except RefusedError:
        return Link(name, ethernet=True) if interfaces.exists(name) else None
    return Link(name, found.ethernet) if found.index == index else None


def _pinned(pins: DevicePins, there: bool) -> Pinned:
    hook = hooks.in_use(pins) if there else None
    program = hook.attached() if hook is not None else None
    if hook is None or program is None:
        return Pinned(None, intact=False)
    return Pinned(hook.kind, intact=pins.has_program(program))


def _followed() -> frozenset[str]:
    try:
        with open_patterns(follow_pins()) as patterns:
            whole = FollowWay.READS not in follow_pins().ways or tun_reads.standing() is not None
            return frozenset(patterns.all()) if whole else frozenset()
    except FileNotFoundError:
        return frozenset()


def _unserved() -> frozenset[int]:
    try:
        with open_patterns(follow_pins()) as patterns:
            followed = patterns.all()
    except FileNotFoundError:
        return frozenset()
    return inner_side.unserved(followed)


def _id_of(pin: Path) -> int | None:
    try:
        fd = syscall.obj_get(str(pin))
    except FileNotFoundError:
        return None
    with opened(fd):
        return syscall.map_info(fd).id
