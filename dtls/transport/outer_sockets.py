"""The tunnel's own sockets, whose packets stay outside of it, and the way that the kernel gives their packets.

Policy routing tells them from all other sockets by a firewall mark (SO_MARK, socket(7)), which takes a privilege that the
client has given up. So it is handed a place to get them from. No packet carries the mark on the wire.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Final, Protocol

from qosctl.bpf.errors import RefusedError
from qosctl.dtls.transport.pyroute2_by_need import rtmsg

MARK: Final = 0x20A4
"""Of no bit that kube-proxy (0xc000), Cilium (0x0f00), Calico or Tailscale (the upper half) look at."""
_RTM_GETROUTE, _NLM_F_REQUEST, _NLMSG_ERROR = 26, 1, 2  # linux/rtnetlink.h, linux/netlink.h
_ANSWER_BYTES, _ANSWER_S = 1 << 14, 1.0
_LEADS_SOMEWHERE = frozenset({1, 2})  # RTN_UNICAST, RTN_LOCAL; of IPv6 the kernel answers "unreachable", too
_HOST_BITS = {socket.AF_INET: 32, socket.AF_INET6: 128}


class NoSocketError(RefusedError):
    """The process is gone that marks sockets whose packets must stay outside of the tunnel: the client cannot go on."""


class OuterSockets(Protocol):
    """Makes the sockets that carry the tunnel."""

    def open(self, family: int, kind: int) -> socket.socket:
        """Return a new non-blocking socket that is not connected.

        OSError where the kernel has none, RefusedError where another time may do better, NoSocketError where none will.
        """
        ...


class PlainSockets:
    """Sockets like everybody's: for a tunnel into which no route leads that its own packets could take."""

    def open(self, family: int, kind: int) -> socket.socket:
        """Return it."""
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


PLAIN_SOCKETS: Final[OuterSockets] = PlainSockets()


@dataclass(frozen=True)
class Way:
    """How packets leave: the index of the device, and the address they leave from."""

    device: int
    source: str
    mtu: int | None
    """What the operator says of the route, in bytes; None where he says nothing. What ICMP has told is not his word."""


def way_to(remote: str, source: str | None = None) -> Way | None:
    """Return the way of the tunnel's own packets to `remote`, from `source` where that is given; None where there is none.

    OSError where the kernel does not say.
    """
    address, _, zone = remote.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attributes: list[tuple[str, Any]] = [("RTA_DST", address), ("RTA_MARK", MARK)]
    if source is not None:
        attributes.append(("RTA_SRC", source.partition("%")[0]))
    if zone:
        attributes.append(("RTA_OIF", socket.if_nametoindex(zone)))
    answer = _ask(family, attributes, sourced=source is not None)
    device = None if answer is None else answer.get_attr("RTA_OIF")
    if answer is None or device is None:
        return None
    learnt = (answer.get_attr("RTA_CACHEINFO") or {}).get("rta_expires")
    metrics = answer.get_attr("RTA_METRICS")
    mtu = None if learnt or metrics is None else metrics.get_attr("RTAX_MTU")
    return Way(device, str(answer.get_attr("RTA_PREFSRC") or source or ""), mtu)


def _ask(family: int, attributes: list[tuple[str, Any]], *, sourced: bool) -> rtmsg | None:
    """Ask for one route. Only the messages are pyroute2's: a conversation costs 4 ms, which packets would have to wait."""
    question = rtmsg()
    question["header"] |= {"type": _RTM_GETROUTE, "flags": _NLM_F_REQUEST, "sequence_number": 1}
    question["family"] = family
    question["dst_len"] = _HOST_BITS[socket.AddressFamily(family)]
    question["src_len"] = question["dst_len"] if sourced else 0
    question["attrs"] = attributes
    question.encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_S)
        kernel.send(question.data)
        data = kernel.recv(_ANSWER_BYTES)
    answer = rtmsg(data)
    answer.decode()
    if answer["header"]["type"] == _NLMSG_ERROR or answer["type"] not in _LEADS_SOMEWHERE:
        return None
    return answer
