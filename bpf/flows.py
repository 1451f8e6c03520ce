"""Flows: the outer five-tuple of a tunnel, and the memory that its client marks records in.

`flows` is a hash of maps. A client creates a ring (an mmapped array of its own), writes who it is, and puts the ring under
its five-tuple: one key to add, one to remove. A mark is one aligned 64-bit store: no system call, no torn read.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from . import syscall
from .errors import RefusedError
from .flow_info import Owner, Statistic, read_owner, statistics_of, statistics_words, write_owner
from .layout import FLOW_INFO_WORDS, FLOW_KEY, FLOWS_MAX, RING_WORDS, WORD

RING_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, WORD.size, RING_WORDS + FLOW_INFO_WORDS, syscall.F_MMAPABLE)
FLOWS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_HASH_OF_MAPS, FLOW_KEY.size, 4, FLOWS_MAX)
_MARKS_BYTES = RING_WORDS * WORD.size
_INFO_BYTES = FLOW_INFO_WORDS * WORD.size
_RING_BYTES = _MARKS_BYTES + _INFO_BYTES
_E2BIG = 7


@dataclass(frozen=True)
class FlowKey:
    """An outer UDP five-tuple, as its packets leave: (address, port) of this end and of the far end."""

    local: tuple[str, int]
    remote: tuple[str, int]

    def pack(self) -> bytes:
        """Return struct flow_key; IPv4 as ::ffff:a.b.c.d."""
        return FLOW_KEY.pack(_packed(self.local[0]), _packed(self.remote[0]), self.local[1], self.remote[1])

    @classmethod
    def unpack(cls, raw: bytes) -> FlowKey:
        """Read struct flow_key."""
        source, destination, source_port, destination_port = FLOW_KEY.unpack(raw)
        return cls((_readable(source), source_port), (_readable(destination), destination_port))


def _packed(address: str) -> bytes:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def _readable(packed: bytes) -> str:
    ip = ipaddress.IPv6Address(packed)
    return str(ip.ipv4_mapped or ip)


class Ring:
    """One flow's memory: `marks`, RING_WORDS 64-bit words, and `statistics`, indexed by Statistic."""

    def __init__(self, owner: Owner) -> None:
        self.fd = syscall.map_create(RING_SHAPE, owner.tunnel)
        self._mmap = mmap.mmap(self.fd, _RING_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        whole = memoryview(self._mmap)
        self.marks = whole[:_MARKS_BYTES].cast("Q")
        info = whole[_MARKS_BYTES:]
        write_owner(info, owner)
        self.statistics = statistics_words(info)

    def close(self) -> None:
        """Drop this process's hold; the kernel frees the ring once no flow points to it.

        The mapping goes with its last view: whoever still holds `marks` may go on storing into it, to no effect.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True)
class Flow:
    """One entry of the flows map as `qosctl flows` shows it."""

    key: FlowKey
    owner: Owner
    statistics: dict[Statistic, int]


class Flows:
    """The pinned `flows` map."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def add(self, key: FlowKey, ring: Ring) -> None:
        """Let the kernel find `ring` for packets of `key`; an entry of the same key is replaced."""
        try:
            syscall.map_update(self.fd, key.pack(), ring.fd.to_bytes(4, sys.byteorder))
        except OSError as error:
            if error.errno == _E2BIG:
                raise RefusedError(
                    f"the flow map is full ({FLOWS_MAX} flows): this tunnel stays unmarked", "qosctl flows"
                ) from error
            raise

    def remove(self, key: FlowKey) -> bool:
        """Forget `key`; False where it was not there."""
        try:
            syscall.map_delete(self.fd, key.pack())
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[FlowKey]:
        """Yield the keys; ones that come and go meanwhile may be missed."""
        raw = syscall.map_next_key(self.fd, None, FLOW_KEY.size)
        seen = set()
        while raw is not None and raw not in seen:
            seen.add(raw)
            yield FlowKey.unpack(raw)
            raw = syscall.map_next_key(self.fd, raw, FLOW_KEY.size)

    def __iter__(self) -> Iterator[Flow]:
        for key in self.keys():
            info = self._info_of(key)
            if info is not None:
                yield Flow(key, read_owner(info), statistics_of(info))

    def reap(self) -> int:
        """Remove the flows whose owner has died; return how many."""
        orphans = [flow.key for flow in self if not flow.owner.alive]
        return sum(self.remove(key) for key in orphans)

    def _info_of(self, key: FlowKey) -> bytes | None:
        inner = syscall.map_lookup(self.fd, key.pack(), 4)
        if inner is None:
            return None
        try:
            fd = syscall.map_by_id(int.from_bytes(inner, sys.byteorder))
        except FileNotFoundError:  # the flow went between the two calls
            return None
        try:
            with mmap.mmap(fd, _INFO_BYTES, mmap.MAP_SHARED, mmap.PROT_READ, offset=_MARKS_BYTES) as page:
                return page[:]
        finally:
            os.close(fd)
