"""The switch: the counterpart of `qosctl passtos`, and of openconnect's `openconnect_set_pass_tos()`.

Kept free of netlink and bcc, so that switching off is one import of nothing and one store.
"""

from __future__ import annotations

from qosctl.bpf.errors import NotAttachedError
from qosctl.bpf.maps.device_pins import pinned_devices
from qosctl.bpf.maps.namespace_maps import open_state


def passtos() -> bool:
    """Whether inner marks are copied outwards in this network namespace; NotAttachedError where nothing is attached."""
    _require_attached()
    with open_state() as state:
        return state.control.passtos


def set_passtos(on: bool) -> bool:
    """Switch copying on or off for all tunnels of this network namespace, from the next packet on.

    Returns what it was before. Takes no lock: it works while the client hangs or another command is at work. Raises
    NotAttachedError where nothing is attached, NoPermissionError without privilege.
    """
    _require_attached()
    with open_state() as state:
        before = state.control.passtos
        state.control.passtos = on
    return before


def _require_attached() -> None:
    if not any(pinned_devices()):
        raise NotAttachedError("nothing is attached in this network namespace", "qosctl attach IFACE")
