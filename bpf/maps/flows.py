"""Flows: the outer five-tuple of a tunnel, and the memory that its client marks records in.

A client has a ring (an mmapped array of its own), which is pinned together with its owner (flow_pins.py) and entered
under its five-tuple. A mark is then one aligned 64-bit store: no system call, no torn read.

The table is two arrays, searched by open addressing (flow_table.h): `flow_slots`, mmapped, and `rings`, maps in an array.
Writers hold the state's lock; readers in the kernel hold nothing, so the word that makes a slot valid is stored last.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import NamedTuple, Self

from qosctl.bpf.abi import FLOW_PROBES, FLOW_SLOT, FLOW_SLOTS, WORD, FlowState
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.flow_page.by_dscp import ClassUse, classes_in
from qosctl.bpf.flow_page.flow_pins import FlowPins, Owner
from qosctl.bpf.flow_page.page import statistics_of, suite_in
from qosctl.bpf.flow_page.reader import RingPages
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.flow_key import KEY_BYTES, FlowKey
from qosctl.bpf.maps.ring import Ring

SLOTS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, FLOW_SLOT.size, FLOW_SLOTS, syscall.F_MMAPABLE)
RINGS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4, FLOW_SLOTS)
_SLOT_WORDS = FLOW_SLOT.size // WORD.size
_STATE_WORD = _SLOT_WORDS - 1  # ports and state
_STATE_STRIDE = FLOW_SLOT.size // 4
_STATE_AT = _STATE_STRIDE - 1  # in 32-bit words: the last of a slot
_STATE_LOW_BYTE = FLOW_SLOT.size - (4 if sys.byteorder == "little" else 1)  # no state needs another


class Flow(NamedTuple):
    """One entry of the flow table as `qosctl flows` shows it. Made by the thousand, so no dataclass."""

    key: FlowKey
    owner: Owner
    statistics: Sequence[int]
    """By Statistic."""
    alive: bool = True
    """Whether the owner lived when this was read."""
    ring_id: int = 0
    """By which its pins are found (flow_pins.py)."""
    classes: Mapping[Dscp, ClassUse] = MappingProxyType({})
    """Those that have carried something, in ascending order."""
    suite: str = ""
    """Of the channel that carries the packets, by OpenSSL's name."""


class Flows:
    """The opened flow table. Close it, or use it in a `with`; `add`, `remove` and `reap` want the state's lock held."""

    def __init__(self, slots_fd: int, rings_fd: int, pins: FlowPins, pages: RingPages | None = None) -> None:
        """`pages`: for a process that reads the same flows again and again."""
        self._rings = rings_fd
        self._pins = pins
        self._pages = pages
        self._mmap = mmap.mmap(slots_fd, FLOW_SLOTS * FLOW_SLOT.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = memoryview(self._mmap).cast("Q")
        self._states = memoryview(self._mmap).cast("I")[_STATE_AT::_STATE_STRIDE]

    def add(self, key: FlowKey, ring: Ring) -> None:
        """Let the kernel find `ring` for packets of `key`; an entry of the same key gets the new ring.

        Its pins are there first, so that an entry is never without them. RefusedError where there is no room left near
        the key's home, and where the entry belongs to another living owner: a client can choose for its TCP socket the
        addresses and ports of another's UDP socket, and the table does not tell the two apart.
        """
        at = self._slot_of(key)
        if at is not None and self._is_anothers(at, ring):
            raise RefusedError(
                f"another tunnel goes from {key.local} to {key.remote}: this one stays unmarked", "qosctl flows"
            )
        if at is None:
            at = next((slot for slot in _search(key) if self._state(slot) != FlowState.USED), None)
        if at is None:
            raise RefusedError(f"the flow table is full near {key.local}: this tunnel stays unmarked", "qosctl flows")
        if ring.lock < 0:
            ring.lock = self._pins.create(ring.fd, ring.id, ring.owner)
        *addresses, ports = key.words()
        first = at * _SLOT_WORDS
        for n, word in enumerate(addresses):
            self._words[first + n] = word
        syscall.map_update(self._rings, _index(at), ring.fd.to_bytes(4, sys.byteorder))
        self._store_state(at, ports, FlowState.USED)

    def remove(self, key: FlowKey) -> bool:
        """Forget `key`; False where it was not there. The ring's pins stay until it is forgotten, too."""
        at = self._slot_of(key)
        if at is None:
            return False
        self._free(at)
        return True

    def forget(self, ring: Ring) -> None:
        """Take the pins of a ring away that no entry points to any more; twice is fine."""
        self._pins.remove(ring.id)

    def keys(self) -> Iterator[FlowKey]:
        """Yield the keys in no order that means anything."""
        for at in self._used():
            yield self._key_at(at)

    def __iter__(self) -> Iterator[Flow]:
        ring_ids = syscall.IndexReader(self._rings)
        seen: set[int] = set()
        with ExitStack() as stack:
            pages = self._pages if self._pages is not None else stack.enter_context(RingPages())
            for at in self._used():
                ring_id = ring_ids.read(at) or 0  # which is nobody's id
                page = pages.read(ring_id, self._pins)
                if page is not None:
                    seen.add(ring_id)
                    info, owner = page
                    statistics, classes = statistics_of(info), classes_in(info)
                    lives = self._pins.alive(ring_id)
                    yield Flow(self._key_at(at), owner, statistics, lives, ring_id, classes, suite_in(info))
            pages.keep(seen)

    def orphans(self) -> list[FlowKey]:
        """Return the flows whose owner has gone."""
        return [self._key_at(at) for at in self._orphaned(self._living())]

    def reap(self) -> int:
        """Remove the flows whose owner has gone, and all pins of such; return how many flows."""
        living = self._living()
        orphaned = list(self._orphaned(living))
        for at in orphaned:
            self._free(at)
        for ring_id in set(self._pins.ids()) - living:
            self._pins.remove(ring_id)
        return len(orphaned)

    def close(self) -> None:
        """Let go of the memory; the table itself lives on."""
        self._words.release()
        self._states.release()
        self._mmap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _used(self) -> Iterator[int]:
        states = self._mmap[_STATE_LOW_BYTE :: FLOW_SLOT.size]
        at = -1
        while (at := states.find(FlowState.USED, at + 1)) >= 0:
            yield at

    def _is_anothers(self, at: int, ring: Ring) -> bool:
        there = syscall.IndexReader(self._rings).read(at)
        return there is not None and there != ring.id and self._pins.alive(there)

    def _living(self) -> set[int]:
        return {ring_id for ring_id in self._pins.ids() if self._pins.alive(ring_id)}

    def _orphaned(self, living: Set[int]) -> Iterator[int]:
        ring_ids = syscall.IndexReader(self._rings)
        return (at for at in self._used() if ring_ids.read(at) not in living)

    def _free(self, at: int) -> None:
        self._store_state(at, 0, FlowState.REMOVED)
        with suppress(FileNotFoundError):  # of a remover that was killed here
            syscall.map_delete(self._rings, _index(at))
        self._tidy(at)

    def _slot_of(self, key: FlowKey) -> int | None:
        wanted = key.pack()
        for at in _search(key):
            state = self._state(at)
            if state is FlowState.EMPTY:
                return None
            if state is FlowState.USED and self._raw_key(at) == wanted:
                return at
        return None

    def _key_at(self, at: int) -> FlowKey:
        return FlowKey.unpack(self._raw_key(at))

    def _raw_key(self, at: int) -> bytes:
        return self._mmap[at * FLOW_SLOT.size : at * FLOW_SLOT.size + KEY_BYTES]

    def _state(self, at: int) -> FlowState:
        return FlowState(self._states[at])

    def _store_state(self, at: int, ports: int, state: FlowState) -> None:
        """Store ports and state in one aligned store."""
        (word,) = WORD.unpack(struct.pack("=II", ports, state))
        self._words[at * _SLOT_WORDS + _STATE_WORD] = word

    def _tidy(self, at: int) -> None:
        """Where nothing follows, removed slots are as good as empty: searches then end at them again."""
        while self._state(at) is FlowState.REMOVED and self._state((at + 1) % FLOW_SLOTS) is FlowState.EMPTY:
            self._store_state(at, 0, FlowState.EMPTY)
            at = (at - 1) % FLOW_SLOTS


def _search(key: FlowKey) -> Iterator[int]:
    """Yield the slots where the flow may lie, in the order the kernel looks at them."""
    home = key.home
    return ((home + probe) % FLOW_SLOTS for probe in range(FLOW_PROBES))


def _index(at: int) -> bytes:
    return at.to_bytes(4, sys.byteorder)
