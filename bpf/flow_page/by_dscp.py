"""What a flow has carried by inner class, and what of it is queued on the way: behind the statistics in its page.

    127     the classes with values below, a bit each; with 0 a reader need not read on
    128..   five words a class, in the order of their numbers: packets sent, bytes sent, packets received, bytes received,
            backlog
            backlog: bit 63 where it is known at all | records (31 bits) | microseconds (32 bits)

Like the statistics (statistics.py) these words only grow, or are set as a whole. What has carried nothing has no bit.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qosctl.bpf.abi import WORD
from qosctl.bpf.dscp import DSCP_COUNT, Dscp

CLASSES_WORD = 127
_CLASSES_AT = CLASSES_WORD + 1
_CLASS = struct.Struct("=5Q")
_CLASS_WORDS = _CLASS.size // WORD.size
CLASSES_END = _CLASSES_AT + DSCP_COUNT * _CLASS_WORDS
"""The first word behind the classes."""
_KNOWN = 1 << 63
_new = tuple.__new__  # of a named tuple it is the quick way, and a scrape goes it often
_RECORDS_SHIFT, _RECORDS_MAX, _MICROSECONDS_MAX = 32, (1 << 31) - 1, (1 << 32) - 1


class Queued(NamedTuple):
    """What is estimated to be on the way to the server in one class."""

    records: int
    microseconds: int


class ClassUse(NamedTuple):
    """What one class has carried: inner packets and their bytes."""

    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    backlog_word: int
    """As in the page; see `queued`."""

    @property
    def queued(self) -> Queued | None:
        """The backlog, None where it is unknown."""
        word = self.backlog_word
        return Queued(word >> _RECORDS_SHIFT & _RECORDS_MAX, word & _MICROSECONDS_MAX) if word & _KNOWN else None


def backlog_word(queued: Queued | None) -> int:
    """Return the word for a backlog; what is beyond its bits is as much as they hold."""
    if queued is None:
        return 0
    records, microseconds = min(queued.records, _RECORDS_MAX), min(queued.microseconds, _MICROSECONDS_MAX)
    return _KNOWN | max(records, 0) << _RECORDS_SHIFT | max(microseconds, 0)


def write_classes(page: memoryview, classes: Mapping[Dscp, ClassUse]) -> None:
    """Store what the classes have carried into a flow's page, a view of its 64-bit words."""
    used = 0
    for dscp, use in classes.items():
        first = _CLASSES_AT + dscp.value * _CLASS_WORDS
        for at, word in enumerate(use, first):
            page[at] = word
        used |= 1 << dscp.value
    page[CLASSES_WORD] = used


def classes_in(info: bytes | memoryview) -> dict[Dscp, ClassUse]:
    """Read back what write_classes stored, in the order of classes. Never raises, whatever the CLASSES_END words hold."""
    unpack = _CLASS.unpack_from
    (used,) = WORD.unpack_from(info, CLASSES_WORD * WORD.size)
    return {dscp: _new(ClassUse, unpack(info, at)) for dscp, at in _places(used)} if used else {}


@functools.lru_cache(maxsize=256)
def _places(used: int) -> Sequence[tuple[Dscp, int]]:
    """The classes whose bits are set, and where their words begin, in bytes. Flows are much alike in this."""
    return tuple(
        (dscp, (_CLASSES_AT + dscp.value * _CLASS_WORDS) * WORD.size) for dscp in Dscp.all() if used >> dscp.value & 1
    )
