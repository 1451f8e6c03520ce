"""Which tunnels of others are followed in one network namespace, and what was read from them: the folder `follow`.

It is there while something is followed, with the maps of the two programs that follow.h describes, the program at the
tracepoint, and the link that holds it there. A device is followed by its name, or by how its name begins: so one that comes
later, a server's for its next client say, is followed from its first packet, with no process of ours about.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.abi import (
    FOLLOW_COUNTERS,
    FOLLOW_PATTERN,
    FOLLOW_PATTERNS,
    QUEUES,
    READ_QUEUE,
    WORD,
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
_SHAPES = {"patterns": PATTERNS_SHAPE, "queues": QUEUES_SHAPE, "empty_queue": EMPTY_SHAPE, "reads": READS_SHAPE}
_NAME_BYTES = 16  # IFNAMSIZ
_WORDS = FOLLOW_PATTERN.size // WORD.size
_SINCE_WORD = _WORDS - 1  # `since`, and half a word in reserve
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
    """The folder of pins. It is there whole or not at all; the link in it comes last and goes first."""

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
        for name, shape in _SHAPES.items():
            with opened(syscall.map_create(shape, name)) as fd:
                syscall.obj_pin(fd, str(new / name))
        new.rename(self.path)

    def are_of_this_layout(self) -> bool:
        """Whether the maps have the shapes that this program speaks."""
        return all(self._shape(name) == shape for name, shape in _SHAPES.items())

    def remove(self) -> None:
        """Forget everything; nothing there is fine."""
        self.link.unlink(missing_ok=True)
        bpffs.discard(self.path)

    def _shape(self, name: str) -> syscall.MapShape | None:
        try:
            fd = syscall.obj_get(str(self.path / name))
        except FileNotFoundError:
            return None
        with opened(fd):
            return syscall.map_info(fd).shape


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

    def add(self, pattern: str) -> bool:
        """Follow what has this name, or one that begins so; False where that is so already.

        RefusedError where no more can be followed.
        """
        if self._slot_of(pattern) is not None:
            return False
        self.check_room([pattern])
        slot = next(slot for slot in range(FOLLOW_PATTERNS) if not self._since(slot))
        syscall.map_update(self._reads, slot.to_bytes(4, sys.byteorder), bytes(FOLLOW_COUNTERS.size * possible_cpus()))
        name, mask = _bytes_of(pattern)
        at = slot * _WORDS
        self._words[at : at + 2] = memoryview(name).cast("Q")
        self._words[at + 2 : at + 4] = memoryview(mask).cast("Q")
        self._words[at + _SINCE_WORD] = self._next_tick()
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
                self._words[slot * _WORDS + _SINCE_WORD] = self._next_tick()

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

    def _since(self, slot: int) -> int:
        return self._words[slot * _WORDS + _SINCE_WORD]

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
