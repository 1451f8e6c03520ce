"""Which tunnels of others are followed in one network namespace, and what was read from them: the folder `follow`.

It is there while something is followed. Of tunnels that programs run it has the maps of the two programs that follow.h
describes, the program at the tracepoint, and the link that holds it there: a device is followed by its name, or by how its
name begins, so one that comes later, a server's for its next client say, is followed from its first packet, with no process
of ours about. Of tunnels in the kernel it has the map that carried.h describes, and a folder for each device, with the
program at its egress.
"""

from __future__ import annotations

import functools
import mmap
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from operator import or_
from pathlib import Path

from qosctl.bpf.abi import (
    CARRIED,
    CARRIERS,
    FOLLOW_COUNTERS,
    FOLLOW_PATTERN,
    FOLLOW_PATTERNS,
    QUEUES,
    READ_QUEUE,
    UDP_PORTS,
    WORD,
    FollowWay,
)
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.counters import possible_cpus
from qosctl.bpf.maps.namespace_maps import FOLLOW, folder
from qosctl.bpf.maps.ticks import ticks_now
from qosctl.bpf.read_count import ReadCount

PATTERNS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, FOLLOW_PATTERN.size, FOLLOW_PATTERNS, syscall.F_MMAPABLE)
QUEUES_SHAPE = syscall.MapShape(syscall.MAP_TYPE_LRU_HASH, WORD.size, READ_QUEUE.size, QUEUES)
EMPTY_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, READ_QUEUE.size, 1)
READS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_PERCPU_ARRAY, 4, FOLLOW_COUNTERS.size, FOLLOW_PATTERNS)
CARRIED_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, CARRIED.size, 1, syscall.F_MMAPABLE)
_SHAPES = {
    "patterns": PATTERNS_SHAPE,
    "reads": READS_SHAPE,
    "empty_queue": EMPTY_SHAPE,
    "queues": QUEUES_SHAPE,
    "carried": CARRIED_SHAPE,
}
_OF_EACH_WAY = {FollowWay.READS: ("empty_queue", "queues"), FollowWay.HASH: ("carried",)}
"""Maps that are there while something is followed in this way; the last of them says so (load/bcc.py)."""
_OF_ALL = ("patterns", "reads")
_NAME_BYTES = 16  # IFNAMSIZ
_WORDS = FOLLOW_PATTERN.size // WORD.size
_SINCE_WORD = _WORDS - 1  # `since`, and `ways` in the upper half
_SINCE_MASK, _WAYS_SHIFT = 0xFFFFFFFF, 32
ANY_REST = "*"
"""Ends a pattern that means all devices whose names begin so."""


@dataclass(frozen=True)
class Reads:
    """What was read from the devices of one pattern, and sent: a field for each ReadCount, which says what they mean."""

    packets: int
    batches: int
    forgotten: int
    passed_over: int
    dtls: int
    openvpn: int
    beyond_window: int

    def __getitem__(self, count: ReadCount) -> int:
        """Return one of them."""
        found: int = getattr(self, count.label)
        return found


@dataclass(frozen=True)
class FollowPins:
    """The folder of pins. What all ways need is there whole or not at all; the link in it comes last and goes first."""

    path: Path

    @property
    def program(self) -> Path:
        """The program at the tracepoint."""
        return self.path / "program"

    @property
    def link(self) -> Path:
        """What holds it there: the program leaves when this pin goes."""
        return self.path / "link"

    def create(self) -> None:
        """Make the maps where they are missing. Callers hold the lock."""
        if self.path.exists():
            return
        new = bpffs.building_place(self.path)
        new.mkdir(mode=0o700)
        for name in _OF_ALL:
            _pin_map(new / name)
        new.rename(self.path)

    @property
    def ways(self) -> FollowWay:
        """The ways that there are maps for."""
        return functools.reduce(or_, (way for way, names in _OF_EACH_WAY.items() if self._has(names[-1])), FollowWay(0))

    def provide(self, ways: FollowWay) -> bool:
        """Have the maps of these ways and of no others; say whether that changed anything. Callers hold the lock."""
        before = self.ways
        for way, names in _OF_EACH_WAY.items():
            for name in names if way in ways else reversed(names):
                if way not in ways:
                    (self.path / name).unlink(missing_ok=True)
                elif not self._has(name):
                    _pin_map(self.path / name)
        return self.ways != before

    def are_of_this_layout(self) -> bool:
        """Whether the maps have the shapes that this program speaks."""
        names = [*_OF_ALL, *(name for name in _SHAPES if name not in _OF_ALL and self._has(name))]
        return all(self._shape(name) == _SHAPES[name] for name in names)

    def remove(self) -> None:
        """Forget everything; nothing there is fine."""
        self.link.unlink(missing_ok=True)
        bpffs.discard(self.path)

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def _shape(self, name: str) -> syscall.MapShape | None:
        try:
            fd = syscall.obj_get(str(self.path / name))
        except FileNotFoundError:
            return None
        with opened(fd):
            return syscall.map_info(fd).shape


def _pin_map(pin: Path) -> None:
    with opened(syscall.map_create(_SHAPES[pin.name], pin.name)) as fd:
        syscall.obj_pin(fd, str(pin))


def follow_pins() -> FollowPins:
    """Return the pins of this network namespace, there or not."""
    return FollowPins(folder() / FOLLOW)


@contextmanager
def open_patterns(pins: FollowPins) -> Iterator[Patterns]:
    """Open the patterns; FileNotFoundError where nothing is followed."""
    with (
        opened(syscall.obj_get(str(pins.path / "patterns"))) as patterns_fd,
        opened(syscall.obj_get(str(pins.path / "reads"))) as reads_fd,
        closing(Patterns(patterns_fd, reads_fd)) as patterns,
    ):
        yield patterns


@contextmanager
def open_carried() -> Iterator[Carried]:
    """Open what is known of ports; FileNotFoundError where no tunnel of the kernel's is followed."""
    with (
        opened(syscall.obj_get(str(follow_pins().path / "carried"))) as fd,
        closing(Carried(fd)) as carried,
    ):
        yield carried


class Carried:
    """From which ports devices send, as the program at their egress has seen it."""

    def __init__(self, fd: int) -> None:
        self._mmap = mmap.mmap(fd, CARRIED.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = memoryview(self._mmap).cast("I")

    def port_of(self, index: int) -> int | None:
        """Return the device's port, None before its first packet; PORT_ELSEWHERE if it is another namespace's."""
        return self._words[UDP_PORTS + index % CARRIERS] or None

    def forget(self, index: int) -> None:
        """Take what leaves from now on for nobody's."""
        self._words[UDP_PORTS + index % CARRIERS] = 0

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._mmap.close()


class Patterns:
    """The opened, mmapped patterns. Writers hold the lock; the word that makes one count is stored last, and goes first."""

    def __init__(self, patterns_fd: int, reads_fd: int) -> None:
        self._reads = reads_fd
        size = FOLLOW_PATTERN.size * FOLLOW_PATTERNS
        self._mmap = mmap.mmap(patterns_fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = memoryview(self._mmap).cast("Q")

    def all(self) -> Sequence[str]:
        """Return what is followed, in the order in which it was named."""
        return [self._pattern(slot) for slot in self._used()]

    def ways(self) -> Mapping[str, FollowWay]:
        """Return in which ways each pattern's devices are followed, as it was last noted."""
        return {self._pattern(slot): FollowWay(self._word(slot) >> _WAYS_SHIFT) for slot in self._used()}

    def add(self, pattern: str, ways: FollowWay = FollowWay.READS) -> bool:
        """Follow what has this name, or one that begins so, in these ways; False where it is followed already.

        RefusedError where no more can be followed.
        """
        known = self._slot_of(pattern)
        if known is not None:
            self._begin(known, self._since(known), ways)
            return False
        self.check_room([pattern])
        slot = next(slot for slot in range(FOLLOW_PATTERNS) if not self._since(slot))
        syscall.map_update(self._reads, slot.to_bytes(4, sys.byteorder), bytes(FOLLOW_COUNTERS.size * possible_cpus()))
        name, mask = _bytes_of(pattern)
        at = slot * _WORDS
        self._words[at : at + 2] = memoryview(name).cast("Q")
        self._words[at + 2 : at + 4] = memoryview(mask).cast("Q")
        self._begin(slot, self._next_tick(), ways)
        return True

    def check_room(self, patterns: Iterable[str]) -> None:
        """Raise a RefusedError where not all of these can be followed besides what is."""
        if len(set(self.all()).union(patterns)) > FOLLOW_PATTERNS:
            raise RefusedError(f"no more than {FOLLOW_PATTERNS} names and patterns can be followed", "qosctl status")

    def remove(self, pattern: str) -> bool:
        """Follow it no more, from the next packet on; False where nobody did."""
        slot = self._slot_of(pattern)
        if slot is None:
            return False
        self._words[slot * _WORDS + _SINCE_WORD] = 0
        return True

    def begin_anew(self) -> None:
        """Let what each task has read until now count for nothing: some of it may have gone unseen."""
        for slot in range(FOLLOW_PATTERNS):
            if self._since(slot):
                self._begin(slot, self._next_tick(), FollowWay(self._word(slot) >> _WAYS_SHIFT))

    def reads(self) -> Mapping[str, Reads]:
        """Return what was read, by pattern, in the order in which they were named."""
        return {self._pattern(slot): self._reads_of(slot) for slot in self._used()}

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._mmap.close()

    def _used(self) -> Sequence[int]:
        begun = [(since, slot) for slot in range(FOLLOW_PATTERNS) if (since := self._since(slot))]
        return [slot for _, slot in sorted(begun)]

    def _begin(self, slot: int, since: int, ways: FollowWay) -> None:
        self._words[slot * _WORDS + _SINCE_WORD] = since | ways.value << _WAYS_SHIFT

    def _word(self, slot: int) -> int:
        return self._words[slot * _WORDS + _SINCE_WORD]

    def _since(self, slot: int) -> int:
        return self._word(slot) & _SINCE_MASK

    def _next_tick(self) -> int:
        """Now; but never a moment at which another was begun: a slot's moment tells its patterns apart."""
        return max(ticks_now(), *(self._since(slot) + 1 for slot in range(FOLLOW_PATTERNS)))

    def _slot_of(self, pattern: str) -> int | None:
        slots = (slot for slot in range(FOLLOW_PATTERNS) if self._since(slot))
        return next((slot for slot in slots if self._pattern(slot) == pattern), None)

    def _pattern(self, slot: int) -> str:
        at = slot * _WORDS
        name = self._words[at : at + 2].tobytes()
        length = self._words[at + 2 : at + 4].tobytes().count(0xFF)
        exact = 0 in name[:length]
        return os.fsdecode(name.partition(b"\0")[0]) if exact else os.fsdecode(name[:length]) + ANY_REST

    def _reads_of(self, slot: int) -> Reads:
        size = FOLLOW_COUNTERS.size * possible_cpus()
        raw = syscall.map_lookup(self._reads, slot.to_bytes(4, sys.byteorder), size)
        assert raw is not None, "an array has all of its entries"
        return Reads(*(sum(column) for column in zip(*FOLLOW_COUNTERS.iter_unpack(raw), strict=True)))


def _bytes_of(pattern: str) -> tuple[bytes, bytes]:
    """Return the name, and which of its bytes count: of a whole name the zero behind it, too."""
    text = os.fsencode(pattern.removesuffix(ANY_REST))
    counting = len(text) if pattern.endswith(ANY_REST) else len(text) + 1
    return text.ljust(_NAME_BYTES, b"\0"), (b"\xff" * counting).ljust(_NAME_BYTES, b"\0")
