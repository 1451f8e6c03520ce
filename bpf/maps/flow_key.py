"""Which packets are a flow's: the outer five-tuple, as a slot of the table holds it, and where a search for it begins."""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
from dataclasses import dataclass

from qosctl.bpf.abi import FLOW_HASH_FIRST, FLOW_HASH_SECOND, FLOW_SLOTS_LOG2

_KEY = struct.Struct("=4QI")
_ENDS = struct.Struct("!16s16sHH")  # the same, taken apart
KEY_BYTES = _KEY.size
_MASK = (1 << 64) - 1
_IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclass(frozen=True)
class FlowKey:
    """An outer UDP five-tuple, as its packets leave: (address, port) of this end and of the far end."""

    local: tuple[str, int]
    remote: tuple[str, int]

    def pack(self) -> bytes:
        """Return the 36 bytes of a slot before its state; IPv4 as ::ffff:a.b.c.d, all in network order."""
        ports = struct.pack("!HH", self.local[1], self.remote[1])
        return _packed(self.local[0]) + _packed(self.remote[0]) + ports

    def words(self) -> tuple[int, ...]:
        """Return the same as a slot's words: four of addresses, and the ports, which are half of the last one."""
        return _KEY.unpack(self.pack())

    @classmethod
    def unpack(cls, raw: bytes) -> FlowKey:
        """Read what pack wrote."""
        return _key(raw[: _KEY.size])

    @property
    def home(self) -> int:
        """The slot where a search for this flow begins: flow_home() of flow_table.h."""
        return home_of(self.pack())


def home_of(packed: bytes) -> int:
    """Return the home of a key that is packed already."""
    *addresses, ports = _KEY.unpack(packed)
    mix = (addresses[0] + addresses[1]) * FLOW_HASH_FIRST & _MASK
    mix ^= (addresses[2] + addresses[3]) * FLOW_HASH_SECOND & _MASK
    home: int = ((mix + ports) * FLOW_HASH_FIRST & _MASK) >> (64 - FLOW_SLOTS_LOG2)
    return home


@functools.lru_cache(maxsize=4096)
def _key(raw: bytes) -> FlowKey:
    """Take the bytes apart. Cached: readers of flows read the same ones again and again."""
    source, destination, source_port, destination_port = _ENDS.unpack(raw)
    return FlowKey((_readable(source), source_port), (_readable(destination), destination_port))


def _packed(address: str) -> bytes:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.packed if ip.version == 6 else _IPV4_MAPPED + ip.packed


def _readable(packed: bytes) -> str:
    if packed.startswith(_IPV4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_IPV4_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed)
