"""What is pinned for one device: its counters, its program, and the link where the hook is TCX.

Steps of an attach, each safe to be killed after: folder with counters (renamed into place whole), program loaded, hook
pointed at it, program pinned (renamed over the old one). The kernel's answer, not a pin, says what is attached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import bpffs, syscall
from .counters import SHAPE, DeviceCounters
from .counters import read as read_counters
from .state import folder

_CLSACT_IS_OURS = "clsact_is_ours"


@dataclass(frozen=True)
class DevicePins:
    """The folder of one device, by interface index."""

    path: Path

    @property
    def index(self) -> int:
        """The interface index that it was made for."""
        return int(self.path.name)

    @property
    def counters(self) -> Path:
        """The pinned per-CPU counters."""
        return self.path / "counters"

    @property
    def program(self) -> Path:
        """The pinned program."""
        return self.path / "program"

    @property
    def link(self) -> Path:
        """The pinned TCX link."""
        return self.path / "link"

    @property
    def clsact_is_ours(self) -> bool:
        """Whether attach created the clsact qdisc (a mark on bpffs: an empty folder)."""
        return (self.path / _CLSACT_IS_OURS).exists()

    def note_clsact_is_ours(self) -> None:
        """Remember that the clsact qdisc is ours to remove."""
        (self.path / _CLSACT_IS_OURS).mkdir(exist_ok=True)

    def forget_clsact(self) -> None:
        """The clsact qdisc is gone, or somebody else's from now on."""
        bpffs.remove_tree(self.path / _CLSACT_IS_OURS)

    def was_attached_as(self, name: str) -> bool:
        """Whether the device had this name when it was attached, as far as a map's name can tell."""
        return self.device_name() == syscall.object_name(name)

    def pin_program(self, fd: int) -> None:
        """Pin the device's program in the place of the one pinned there."""
        new = self.path / "program_new"
        new.unlink(missing_ok=True)
        syscall.obj_pin(fd, str(new))
        new.rename(self.program)

    def device_name(self) -> str:
        """Return the name the device had when it was attached (the counters map carries it, see object_name)."""
        fd = syscall.obj_get(str(self.counters))
        try:
            return syscall.map_info(fd).name
        finally:
            os.close(fd)

    def read_counters(self) -> DeviceCounters:
        """Read the device's counters."""
        fd = syscall.obj_get(str(self.counters))
        try:
            return read_counters(fd)
        finally:
            os.close(fd)

    def create(self, name: str) -> None:
        """Make the folder with zeroed counters where it is missing."""
        if self.path.exists():
            return
        self.path.parent.mkdir(exist_ok=True)
        new = bpffs.building_place(self.path)
        new.mkdir()
        fd = syscall.map_create(SHAPE, name)
        try:
            syscall.obj_pin(fd, str(new / "counters"))
        finally:
            os.close(fd)
        new.rename(self.path)

    def remove(self) -> None:
        """Forget the device; its hook must be gone before."""
        bpffs.discard(self.path)


def pins_of(index: int) -> DevicePins:
    """Return the pins of a device of this namespace, there or not."""
    return DevicePins(folder() / "devices" / str(index))


def pinned_devices() -> Iterator[DevicePins]:
    """Yield what is pinned in this namespace, by index."""
    try:
        if not bpffs.present(folder()):
            return
        names = sorted(int(path.name) for path in (folder() / "devices").iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return
    except PermissionError:
        raise bpffs.no_permission() from None
    for index in names:
        yield pins_of(index)
