"""What a mark can cost at the far end of a tunnel of others: its receiver's replay window, and how to make that wider.

A mark lets packets overtake, and a receiver drops what was overtaken by more than its window. Which one that is, the far
end knows alone: here it is what the program at that end has if nobody has changed it.
"""

from __future__ import annotations

from dataclasses import dataclass

from qosctl.bpf.abi import REPLAY_WINDOW, FollowWay
from qosctl.bpf.maps.following import Reads
from qosctl.supervisor.devices.follow import Followed

_DTLS, _OPENVPN = "`qosctl connect` as the client", "`--replay-window 4096` there"


@dataclass(frozen=True)
class WindowRisk:
    """Tunnels whose receiver may drop what marks let overtake; `overrun` is how often that was possible until now."""

    names: str
    cure: str
    overrun: int

    def __str__(self) -> str:
        """Say it in a line."""
        lost = f"what is overtaken by more than {REPLAY_WINDOW} packets, its receiver may drop"
        return f"{self.names}: {lost}; cure: {self.cure}"


def window_risk(followed: Followed) -> WindowRisk | None:
    """Return what is to be said of the devices that a pattern means now; None where none of them runs such a risk."""
    # The others are the kernel's own, whose windows hold the queue of a path: 8,128 of WireGuard, 2,048 of ovpn.
    names = [device.name for device in followed.devices if device.way is FollowWay.READS and not device.refusal]
    if not names:
        return None
    shown = names[0] if len(names) == 1 else followed.pattern
    return WindowRisk(shown, _cure(followed.reads), followed.reads.beyond_window)


def _cure(reads: Reads) -> str:
    """By the protocol that was seen; both where none was yet."""
    if reads.dtls and not reads.openvpn:
        return _DTLS
    if reads.openvpn and not reads.dtls:
        return _OPENVPN
    return f"{_DTLS} of ocserv, {_OPENVPN} of OpenVPN"
