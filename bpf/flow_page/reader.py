"""The pages in which clients say how their flows fare (statistics.py), mapped once and read many times, and whose they are.

Mapping a page takes longer than all else that reading a flow takes, and an exporter reads the same flows again and again.
A mapping holds its ring, so a ring's id stays its own as long as it is here; and it needs no descriptor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Set
from typing import NamedTuple, Self

from qosctl.bpf.abi import FLOW_INFO_WORDS, RING_WORDS, WORD
from qosctl.bpf.flow_page.flow_pins import FlowPins, Owner
from qosctl.bpf.kernel.descriptors import opened

_AT = RING_WORDS * WORD.size
_BYTES = FLOW_INFO_WORDS * WORD.size
_KEPT_MAX = 8192  # mappings; a process may have 65530 by default
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class RingPage(NamedTuple):
    """One ring's page, and its owner, which never changes."""

    info: memoryview
    owner: Owner


class RingPages:
    """Mapped pages by ring id. One thread at a time. Close it, or use it in a `with`."""

    def __init__(self) -> None:
        self._pages: dict[int, RingPage] = {}
        self._addresses: dict[int, int] = {}

    def read(self, ring_id: int, pins: FlowPins) -> RingPage | None:
        """Return a ring's page, None where the ring has gone; OSError where it cannot be mapped.

        It is the memory that the client stores into, not a copy: of a page few lines are needed, and there are many pages.
        It is good until `keep` or `close` lets go of it, so take out at once what is wanted, and no slices of it away.
        """
        page = self._pages.get(ring_id)
        if page is None:
            address = _mapped(ring_id, pins)
            if address is None:
                return None
            self._addresses[ring_id] = address
            info = memoryview((ctypes.c_char * _BYTES).from_address(address)).cast("B")
            page = self._pages[ring_id] = RingPage(info, pins.owner(ring_id))
        return page

    def keep(self, ring_ids: Set[int]) -> None:
        """Let go of the pages of all other rings, and of those beyond a limit."""
        kept = 0
        for ring_id in list(self._addresses):
            kept += ring_id in ring_ids
            if ring_id not in ring_ids or kept > _KEPT_MAX:
                self._pages.pop(ring_id).info.release()
                _libc.munmap(self._addresses.pop(ring_id), _BYTES)

    def close(self) -> None:
        """Let go of all."""
        self.keep(frozenset())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mapped(ring_id: int, pins: FlowPins) -> int | None:
    try:
        fd = pins.open_ring(ring_id)
    except FileNotFoundError:  # the flow went meanwhile
        return None
    with opened(fd):
        address: int | None = _libc.mmap(None, _BYTES, mmap.PROT_READ, mmap.MAP_SHARED, fd, _AT)
        if address is None or address == _FAILED:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return address
