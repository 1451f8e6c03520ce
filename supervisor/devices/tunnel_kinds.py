"""What kind of tunnel a device is, as rtnetlink says, and so how the mark of what is inside can come outside."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.maps.following import ANY_REST
from qosctl.dtls.transport.rtnetlink import conversation

_CARRYING = "wireguard"
_TUN, _TAP = 1, 2  # IFF_TUN and IFF_TAP, linux/if_tun.h
_KERNEL_COPIES = {
    "vxlan": "ip link set DEV type vxlan tos inherit",
    "geneve": "ip link set DEV type geneve tos inherit",
    "gre": "ip link set DEV type gre tos inherit",
    "gretap": "ip link set DEV type gretap tos inherit",
    "ipip": "ip link set DEV type ipip tos inherit",
    "sit": "ip link set DEV type sit tos inherit",
    "ip6gre": "ip link set DEV type ip6gre tclass inherit",
    "ip6gretap": "ip link set DEV type ip6gretap tclass inherit",
    "ip6tnl": "ip link set DEV type ip6tnl tclass inherit",
}


@dataclass(frozen=True)
class Device:
    """A device of this network namespace. `refusal` says why it cannot be followed and `hint` what to do; "" if it can.

    `way` is how, where it can.
    """

    name: str
    index: int
    kind: str
    refusal: str
    hint: str = ""

    @property
    def way(self) -> FollowWay:
        """How the class of what is inside comes outside."""
        return FollowWay.HASH if self.kind == _CARRYING else FollowWay.READS


def devices() -> Mapping[str, Device]:
    """Return all devices of this network namespace, by name."""
    with conversation() as ip:
        links = list(ip.get_links())
    return {device.name: device for device in map(_device, links)}


def of_the_kernel() -> Mapping[str, int]:
    """Return the index of each WireGuard device, by name: the kernel looks at the others for us."""
    with conversation() as ip:
        links = list(ip.get_links(kind=_CARRYING))
    return {os.fsdecode(link.get_attr("IFLA_IFNAME")): link["index"] for link in links}


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means: one name, or all that begin like it where it ends with a star."""
    if pattern.endswith(ANY_REST):
        return sorted(name for name in names if name.startswith(pattern.removesuffix(ANY_REST)))
    return [name for name in names if name == pattern]


def _device(link: Any) -> Device:
    index: int = link["index"]
    name = os.fsdecode(link.get_attr("IFLA_IFNAME"))  # bytes where they are no UTF-8
    info = link.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "none"
    if kind in _KERNEL_COPIES:
        return Device(
            name, index, kind, "the kernel itself copies the mark, when told to", _KERNEL_COPIES[kind].replace("DEV", name)
        )
    if kind == "xfrm":
        return Device(name, index, kind, "the kernel itself copies the mark of what IPsec carries", "ip xfrm state")
    if kind == _CARRYING:
        return Device(name, index, kind, "")
    if kind == "tun":
        return Device(name, index, kind, *_why_not_tun(info.get_attr("IFLA_INFO_DATA")))
    if kind == "ovpn":
        return Device(name, index, kind, f"tunnels of kind {kind} cannot be followed yet: the kernel sends what is in them")
    return Device(name, index, kind, "no tunnel", "ip -details link")


def _why_not_tun(data: Any) -> tuple[str, str]:
    if data is None:  # a kernel before 4.19 tells nothing
        return "", ""
    if data.get_attr("IFLA_TUN_TYPE") != _TUN:
        return "a TAP: what is in it are Ethernet frames, whose lengths no format is known for", ""
    if data.get_attr("IFLA_TUN_VNET_HDR"):
        return (
            "its program reads many packets at once (IFF_VNET_HDR): which of them is in which datagram cannot be told",
            "",
        )
    return "", ""
