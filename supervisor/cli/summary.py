"""The one sentence that `qosctl status` begins with: does it work, and if not, what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from qosctl.bpf.outcome import Fate, outcomes_of
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status

_MARKED = outcomes_of(Fate.MARKED)


def glance(now: Status) -> str:
    """Return the worst that is to be said, or that all is well."""
    attached = [device for device in now.devices if device.state is DeviceState.ATTACHED]
    if now.following.patterns and not now.following.running:
        again = " ".join(followed.pattern for followed in now.following.patterns)
        return f"NOT MARKING what is followed: our program is not there (try: qosctl follow {again})"
    return _of_attached(now, attached)


def _of_attached(now: Status, attached: Sequence[DeviceStatus]) -> str:
    lost = [device for device in now.devices if device.state is DeviceState.DETACHED]
    tunnels = sum(flow.alive for flow in now.flows) + len(now.following.tunnels)
    if lost:
        return f"NOT MARKING on {_names(lost)}: our program is gone (try: qosctl attach {' '.join(d.name for d in lost)})"
    if not attached:
        return "NOT MARKING: nothing is attached (try: qosctl attach IFACE)"
    if not now.passtos:
        return "off: nothing is marked (try: qosctl passtos on)"
    if not tunnels:
        return "on, and no tunnel is up: nothing to mark (try: qosctl connect)"
    if not any(device.counters.outcomes[outcome] for device in attached for outcome in _MARKED):
        return f"on, but no tunnel packet was marked on {_names(attached)} yet (try: qosctl doctor)"
    return f"marking {tunnels} tunnel{'' if tunnels == 1 else 's'} on {_names(attached)}"


def _names(devices: Sequence[DeviceStatus]) -> str:
    return ", ".join(device.name for device in devices)
