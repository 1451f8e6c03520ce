"""ICMP errors that nobody asked for: whoever can reach a host can send it any, quoting a packet that never was.

The sender is no router on the way and sends from its own address; all it must guess is the port, and it guesses them all.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from tests.lab.namespace import Namespace

EPHEMERAL = range(32768, 61000)
"""Linux's net.ipv4.ip_local_port_range."""
_UDP, _ICMP, _ICMPV6 = 17, 1, 58
_UNREACHABLE, _TOO_BIG_CODE = 3, 4
_TOO_BIG6, _UNREACHABLE6, _ECHO6 = 2, 1, 128


class Forger:
    """Sends ICMP errors from `namespace` to `victim` about its UDP packets to a server's address and port."""

    def __init__(self, namespace: Namespace, victim: str, server: str, server_port: int) -> None:
        self._namespace, self._victim = namespace, victim
        self._server, self._server_port = server, server_port
        self._ipv4 = ":" not in victim

    def too_big(self, mtu: int, ports: Iterable[int] = EPHEMERAL) -> None:
        """Say that they are larger than `mtu` bytes."""
        kind = (_UNREACHABLE, _TOO_BIG_CODE) if self._ipv4 else (_TOO_BIG6, 0)
        self._spray(*kind, mtu, map(self._quoted, ports))

    def unreachable(self, code: int, ports: Iterable[int] = EPHEMERAL) -> None:
        """Say that they cannot get there; `code` is the family's (RFC 792, RFC 4443)."""
        self._spray(_UNREACHABLE if self._ipv4 else _UNREACHABLE6, code, 0, map(self._quoted, ports))

    def too_big_for_echo(self, mtu: int) -> None:
        """Say of an echo reply (IPv6: request) that it is too large: the kernel looks for no socket then, and trusts it."""
        if self._ipv4:
            quoted = _ip4(self._victim, self._server, _ICMP, 8) + bytes(8)  # type 0: a reply
            self._spray(_UNREACHABLE, _TOO_BIG_CODE, mtu, [quoted])
        else:
            self._spray(_TOO_BIG6, 0, mtu, [self._ip6(_ICMPV6, 8) + bytes([_ECHO6, *bytes(7)])])

    def _quoted(self, source_port: int) -> bytes:
        udp = struct.pack("!HHHH", source_port, self._server_port, 1400, 0)
        if self._ipv4:
            return _ip4(self._victim, self._server, _UDP, 1400) + udp
        return self._ip6(_UDP, 1400) + udp

    def _ip6(self, protocol: int, length: int) -> bytes:
        ends = ipaddress.IPv6Address(self._victim).packed + ipaddress.IPv6Address(self._server).packed
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + ends

    def _spray(self, kind: int, code: int, value: int, quotes: Iterable[bytes]) -> None:
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
        if self._ipv4:
            family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
        with self._namespace.entered(), socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            for quoted in quotes:
                message = struct.pack("!BBHI", kind, code, 0, value) + quoted
                if self._ipv4:  # of ICMPv6 the kernel writes it
                    message = message[:2] + _checksum(message).to_bytes(2) + message[4:]
                raw.sendto(message, (self._victim, 0))


def _ip4(source: str, destination: str, protocol: int, length: int) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0) + addresses


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
