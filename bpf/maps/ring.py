"""A client's own memory: marks, which the kernel reads, and behind them the page in which it says how it fares."""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

from qosctl.bpf.abi import FLOW_INFO_WORDS, RING_WORDS, WORD
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.flow_page.page import page_words
from qosctl.bpf.flow_page.rtt_request import RttRequestWords, request_words
from qosctl.bpf.kernel import syscall

RING_SHAPE = syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, WORD.size, RING_WORDS + FLOW_INFO_WORDS, syscall.F_MMAPABLE)
_MARKS_BYTES = RING_WORDS * WORD.size


class RingMemory(NamedTuple):
    """What a ring holds, mapped to be written. The mapping goes with the last view of it."""

    marks: memoryview
    """RING_WORDS words of 64 bits."""
    page: memoryview
    """As words: statistics.py."""
    rtt_requests: RttRequestWords
    """The page's last words."""

    @classmethod
    def of(cls, fd: int) -> RingMemory:
        """Map a ring, whose descriptor may be closed then. OSError where the kernel refuses."""
        size = RING_SHAPE.max_entries * WORD.size
        whole = memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
        info = whole[_MARKS_BYTES:]
        return cls(whole[:_MARKS_BYTES].cast("Q"), page_words(info), RttRequestWords(request_words(info)))


class Ring:
    """One owner's memory, and its hold on it: `marks`, `page` and `rtt_requests` are as in RingMemory.

    From its first entry on (Flows.add) the owner lives as long as the ring is open here: `lock` is the descriptor that
    says so.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.lock = -1
        self.fd = syscall.map_create(RING_SHAPE, owner.tunnel)
        self.id = syscall.map_info(self.fd).id
        self.marks, self.page, self.rtt_requests = RingMemory.of(self.fd)

    def close(self) -> None:
        """Drop this process's hold: its flows have no owner any more, and the next reaper takes them out, pins and all.

        The mapping goes with its last view: a holder of `marks` may go on storing into it, to no effect.
        """
        for fd in (self.fd, self.lock):
            if fd >= 0:
                os.close(fd)
        self.fd = self.lock = -1
