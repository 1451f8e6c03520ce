"""One probe at a time: a UDP datagram of the tunnel's five-tuple kind, and the ICMP errors that come back.

All probes of a trace leave from one port for one port, so routers that spread flows over several ways keep them together;
a probe's number is its payload length, which every router quotes (RFC 792 and 4443 promise the first 8 bytes of UDP).

The kernel's error queue (IP_RECVERR, IPV6_RECVERR) would need no privilege, but it hands up the payload behind the quoted
headers, never the quoted IP header: hence raw ICMP sockets.

The byte is set as a socket option, so a rule of this machine that looks at it can send probes another way than the tunnel's
packets, which are stamped after routing. `qosctl doctor` finds such rules.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from dataclasses import dataclass
from typing import Self

from qosctl.bpf.dscp import TrafficClass
from qosctl.bpf.errors import NoPermissionError, RefusedError
from qosctl.dtls.transport.outer_sockets import MARK
from qosctl.supervisor.path.icmp_quote import Complaint, parse_icmp4, parse_icmp6
from qosctl.supervisor.path.waiting import arrivals

_ICMP_FILTER = 1  # linux/icmp.h; of SOL_RAW
_ICMP6_FILTER = 1  # linux/icmpv6.h; of IPPROTO_ICMPV6
_PASS_ICMP4 = (3, 11)
_PASS_ICMP6 = (1, 3)
_PAYLOAD_MIN = 16
_RECEIVE_BYTES = 2048


@dataclass(frozen=True)
class Sent:
    """A probe on its way; `at` in seconds of the monotonic clock."""

    number: int
    hop_limit: int
    traffic_class: TrafficClass
    at: float


@dataclass(frozen=True)
class Heard:
    """A complaint about one of our probes, who sent it, and when it came."""

    number: int
    sender: str
    complaint: Complaint
    at: float


class Prober:
    """The two sockets of a trace to `address`:`port`. NoPermissionError without CAP_NET_RAW. Use it in a `with`."""

    def __init__(self, address: str, port: int) -> None:
        self._family = ipaddress.ip_address(address.partition("%")[0]).version
        self._destination = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0][4]
        self._port = port
        self._numbers = 0
        domain = socket.AF_INET if self._family == 4 else socket.AF_INET6
        self._icmp = _icmp_socket(self._family)
        self._udp = socket.socket(domain, socket.SOCK_DGRAM)
        with contextlib.suppress(PermissionError):  # a kernel before 5.17 wants CAP_NET_ADMIN for it
            self._udp.setsockopt(
                socket.SOL_SOCKET, socket.SO_MARK, MARK
            )  # to the server of a tunnel: the way of its packets
        self._udp.bind(("", 0))
        self._source_port: int = self._udp.getsockname()[1]

    def send(self, hop_limit: int, traffic_class: TrafficClass) -> Sent:
        """Send one datagram that dies after `hop_limit` hops; RefusedError where this machine has no way there."""
        if self._family == 4:
            self._udp.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)
            self._udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class.byte)
        else:
            self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
            self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class.byte)
        self._numbers += 1
        sent = Sent(self._numbers, hop_limit, traffic_class, time.monotonic())
        try:
            self._udp.sendto(bytes(_PAYLOAD_MIN + sent.number), self._destination)
        except OSError as error:
            raise RefusedError(f"cannot send to {self._destination[0]}: {error.strerror}", "ip route") from error
        return sent

    def listen(self, until: float) -> Heard | None:
        """Return the next complaint about one of our probes, or None once the clock has passed `until`."""
        for _ in arrivals(self._icmp, until):
            packet, sender = self._icmp.recvfrom(_RECEIVE_BYTES)
            complaint = (parse_icmp4 if self._family == 4 else parse_icmp6)(packet)
            number = self._number_of(complaint) if complaint is not None else None
            if complaint is not None and number is not None:
                return Heard(number, str(sender[0]).partition("%")[0], complaint, time.monotonic())
        return None

    def _number_of(self, complaint: Complaint) -> int | None:
        """Return which probe it is about; None for packets of others. A NAT may have changed the quoted destination."""
        quote = complaint.quote
        number = quote.payload_bytes - _PAYLOAD_MIN
        ours = (quote.source_port, quote.destination_port) == (self._source_port, self._port)
        return number if ours and 1 <= number <= self._numbers else None

    def close(self) -> None:
        """Close both sockets."""
        self._udp.close()
        self._icmp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _icmp_socket(family: int) -> socket.socket:
    try:
        if family == 4:
            icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in _PASS_ICMP4)
            icmp.setsockopt(socket.SOL_RAW if hasattr(socket, "SOL_RAW") else 255, _ICMP_FILTER, struct.pack("=I", blocked))
        else:
            icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            mask = 2**256 - 1 - sum(1 << kind for kind in _PASS_ICMP6)
            words = struct.pack("=8I", *(mask >> 32 * word & 0xFFFFFFFF for word in range(8)))
            icmp.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, words)
    except PermissionError as error:
        raise NoPermissionError(
            "reading what routers quote needs CAP_NET_RAW: the kernel's error queue leaves the quoted IP header out",
            "run it as root",
        ) from error
    return icmp
