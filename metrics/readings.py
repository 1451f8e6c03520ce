"""What a scrape reads from the kernel, part by part: a damaged part must not take the others with it.

So each function opens what it needs and no more, below `state`, the namespace's folder of pins (bpf/kernel/bpffs.py). A
folder that is not there is a fine state: nothing is attached, passtos is off. Nothing here takes the lock or changes
anything, so a scrape never waits for an attach, nor an attach for a scrape.

Errors: OSError from the kernel, QosctlError where the maps are another layout's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.abi import LAYOUT_VERSION
from qosctl.bpf.errors import NoPermissionError, RefusedError
from qosctl.bpf.flow_page.reader import RingPages
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.kernel.syscall import MapShape, ProgramInfo
from qosctl.bpf.maps.counters import SHAPE as COUNTERS_SHAPE
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.counters import read as read_counters
from qosctl.bpf.maps.device_pins import DevicePins
from qosctl.bpf.maps.flows import RINGS_SHAPE, SLOTS_SHAPE, Flow, Flows
from qosctl.bpf.maps.following import FollowPins, Reads, open_patterns
from qosctl.bpf.maps.namespace_maps import CONTROL_SHAPE, FOLLOW, POLICY_SHAPE, flow_pins
from qosctl.bpf.maps.policy import Policy, PolicyTable
from qosctl.bpf.maps.switch import Control
from qosctl.bpf.printable import one_line

_LOOPBACK = 1  # in every network namespace


@dataclass(frozen=True)
class Attachment:
    """Our program at a device's egress: the kind of hook it stands at ("tcx", "clsact") and what the kernel says of it.

    `foreign_ahead`: how many programs and filters of others run before it.
    """

    hook: str
    program: ProgramInfo
    foreign_ahead: int


# How the collector learns what stands at a device's hook: that takes netlink, which is the supervisor's business.
AttachmentOf = Callable[[DevicePins], Attachment | None]


@dataclass(frozen=True)
class Device:
    """One device that was attached; `attachment` is None where our program does not stand there now."""

    name: str
    attachment: Attachment | None
    counters: DeviceCounters


def require_privilege() -> None:
    """Raise NoPermissionError where this process may not read the pins, which are root's, or what stands at hooks."""
    try:
        bpffs.present(bpffs.ROOT)
        syscall.tcx_programs(_LOOPBACK)
    except PermissionError as error:
        raise NoPermissionError("reading flows and programs needs root with CAP_NET_ADMIN", "run it as root") from error
    except OSError:  # a kernel that does not know TCX; it asks for permission first
        return


def read_passtos(state: Path) -> bool:
    """Whether marks are copied outwards."""
    if not bpffs.present(state):
        return False
    with _control(state) as control:
        return control.passtos


def read_policy(state: Path) -> Policy:
    """The policy in force."""
    if not bpffs.present(state):
        return Policy.identity()
    with (
        _control(state) as control,
        _opened(state / "policy", POLICY_SHAPE) as fd,
        closing(PolicyTable(fd, control)) as table,
    ):
        return table.read()


def read_flows(state: Path, pages: RingPages) -> Sequence[Flow]:
    """All flows, those of dead owners included. `pages` are kept from one reading to the next."""
    if not bpffs.present(state):
        return ()
    with (
        _opened(state / "flow_slots", SLOTS_SHAPE) as slots,
        _opened(state / "rings", RINGS_SHAPE) as rings,
        Flows(slots, rings, flow_pins(state), pages) as flows,
    ):
        return tuple(flows)


def read_followed(state: Path) -> Mapping[str, Reads]:
    """What was read from tunnels of others and sent, by the pattern that is followed."""
    pins = FollowPins(state / FOLLOW)
    if not bpffs.present(state) or not pins.path.exists():
        return {}
    if not pins.are_of_this_layout():
        raise RefusedError(f"what is followed has another layout than {LAYOUT_VERSION}", "qosctl status")
    with open_patterns(pins) as patterns:
        return {one_line(pattern): reads for pattern, reads in patterns.reads().items()}


def device_pins(state: Path) -> Sequence[DevicePins]:
    """The devices that are pinned, by interface index."""
    if not bpffs.present(state):
        return ()
    try:
        indices = sorted(int(path.name) for path in (state / "devices").iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return ()
    return tuple(DevicePins(state / "devices" / str(index)) for index in indices)


def read_device(pins: DevicePins, attachment_of: AttachmentOf) -> Device:
    """One device. It goes by its present name, or by the one it was attached under when it is gone."""
    with _opened(pins.counters, COUNTERS_SHAPE) as fd:
        counters = read_counters(fd)
    present = _name_of(pins.index)
    if present is None:
        return Device(one_line(pins.device_name()), None, counters)
    return Device(one_line(present), attachment_of(pins), counters)


@contextmanager
def _control(state: Path) -> Iterator[Control]:
    with _opened(state / "control", CONTROL_SHAPE) as fd, Control(fd) as control:
        if control.layout != LAYOUT_VERSION:
            raise RefusedError(f"the maps have layout {control.layout}, not {LAYOUT_VERSION}", "qosctl status")
        yield control


@contextmanager
def _opened(path: Path, shape: MapShape) -> Iterator[int]:
    """Open a pinned map of this very shape: reading one of a larger value would write past our buffer."""
    with opened(syscall.obj_get(str(path))) as fd:
        if syscall.map_info(fd).shape != shape:
            raise RefusedError(f"{path.name} has another layout than {LAYOUT_VERSION}", "qosctl status")
        yield fd


def _name_of(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None
