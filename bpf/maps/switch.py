"""The switch: one word of an mmapped array, so that switching off is one store and needs no lock.

Storing works while the client hangs, while an attach holds the lock, and while every process of ours is dead.

A process that may only read the switch gets a read-only descriptor (BPF_F_RDONLY), and no mapping: the kernel refuses
to map such a descriptor (bpf_map_mmap() wants VM_SHARED, which mmap(2) takes from a descriptor without FMODE_WRITE).
"""

from __future__ import annotations

import mmap
import os
from typing import Self

from qosctl.bpf.abi import CONTROL, LAYOUT_VERSION
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.ticks import ticks_now

_LAYOUT, _PASSTOS, _POLICY_BANK, _GENERATION = range(4)  # places of the fields of struct control, 32 bits each


class Control:
    """The mmapped `control` map. Close it, or use it in a `with`."""

    def __init__(self, fd: int) -> None:
        self._mmap = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._fields = memoryview(self._mmap).cast("I")

    def initialise(self) -> None:
        """Make the zeroed map a valid one: switched off, with the layout this program speaks."""
        self._fields[_LAYOUT] = LAYOUT_VERSION

    @property
    def layout(self) -> int:
        """The layout version of whoever made the maps."""
        return self._fields[_LAYOUT]

    @property
    def passtos(self) -> bool:
        """Whether marks are copied outwards."""
        return self._fields[_PASSTOS] != 0

    @passtos.setter
    def passtos(self, on: bool) -> None:
        if self.passtos != on:
            self._fields[_PASSTOS] = ticks_now() if on else 0
            self._fields[_GENERATION] = (self._fields[_GENERATION] + 1) & 0xFFFFFFFF

    @property
    def policy_bank(self) -> int:
        """Which half of the policy map counts."""
        return self._fields[_POLICY_BANK]

    @policy_bank.setter
    def policy_bank(self, bank: int) -> None:
        self._fields[_POLICY_BANK] = bank
        self._fields[_GENERATION] = (self._fields[_GENERATION] + 1) & 0xFFFFFFFF

    @property
    def generation(self) -> int:
        """Raised at each change of the switch or the policy; 32 bits, wraps."""
        return self._fields[_GENERATION]

    def close(self) -> None:
        """Let go of the memory; the map itself lives on."""
        self._fields.release()
        self._mmap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SwitchReader:
    """Reads the switch, and can do no more: one lookup a call. Takes over a read-only descriptor of the map.

    Needs no privilege where whoever has a descriptor may look (Linux 5.19 and later).
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        """For another process that is to know; -1 after `close`."""
        self._entry = syscall.FirstEntry(fd, CONTROL.size)

    @property
    def passtos(self) -> bool:
        """Whether marks are copied outwards. OSError where the kernel does not say."""
        on: int = CONTROL.unpack(self._entry.read())[_PASSTOS]
        return on != 0

    def close(self) -> None:
        """Give the descriptor back; twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
