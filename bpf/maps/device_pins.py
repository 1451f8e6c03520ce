"""What is pinned for one device: its counters, its program, and the link where the hook is TCX.

Steps of an attach, each safe to be killed after: folder with counters (renamed into place whole), program loaded, pinned
beside the one before, hook pointed at it, pin renamed over the old one. The kernel's answer, not a pin, says which
program is attached. But it has a pin at every step, so that it can be read without CAP_SYS_ADMIN, which opening a program
by its id takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.kernel.syscall import ProgramInfo
from qosctl.bpf.maps.counters import SHAPE, DeviceCounters
from qosctl.bpf.maps.counters import read as read_counters
from qosctl.bpf.maps.namespace_maps import FOLLOW, folder

_CLSACT_IS_OURS = "clsact_is_ours"


@dataclass(frozen=True)
class DevicePins:
    """The folder of one device, by interface index.

    `inner` where it is a tunnel's own device, which is followed: the program there is another one, behind ours that marks.
    """

    path: Path
    inner: bool = False

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
    def _announced(self) -> Path:
        return self.path / "program_new"

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
        (self.path / _CLSACT_IS_OURS).mkdir(mode=0o700, exist_ok=True)

    def forget_clsact(self) -> None:
        """The clsact qdisc is gone, or somebody else's from now on."""
        bpffs.remove_tree(self.path / _CLSACT_IS_OURS)

    def was_attached_as(self, name: str) -> bool:
        """Whether the device had this name when it was attached, as far as a map's name can tell."""
        return self.device_name() == syscall.object_name(name)

    def announce_program(self, fd: int) -> None:
        """Pin the program that the hook is to get, beside the one that it has."""
        self._announced.unlink(missing_ok=True)
        syscall.obj_pin(fd, str(self._announced))

    def confirm_program(self, program_id: int) -> None:
        """The hook has this program: let its pin take the place of the one before. Twice is fine."""
        if _program_id(self._announced) == program_id:
            self._announced.rename(self.program)
        else:
            self._announced.unlink(missing_ok=True)

    def has_program(self, program_id: int) -> bool:
        """Whether the pinned program is the one with this id."""
        return _program_id(self.program) == program_id

    def open_program(self, program_id: int) -> int | None:
        """Open the pinned program that has this id, None where there is none."""
        for pin in (self.program, self._announced):
            with suppress(FileNotFoundError):
                fd = syscall.obj_get(str(pin))
                if syscall.program_info(fd).id == program_id:
                    return fd
                os.close(fd)
        return None

    def program_info(self, program_id: int) -> ProgramInfo:
        """Describe the program at the hook; by no more than its id where somebody has taken its pin away."""
        fd = self.open_program(program_id)
        if fd is None:
            return ProgramInfo(program_id, tag="", name="", loaded_at=0)
        with opened(fd):
            return syscall.program_info(fd)

    def device_name(self) -> str:
        """Return the name the device had when it was attached (the counters map carries it, see object_name)."""
        with opened(syscall.obj_get(str(self.counters))) as fd:
            return syscall.map_info(fd).name

    def read_counters(self) -> DeviceCounters:
        """Read the device's counters."""
        with opened(syscall.obj_get(str(self.counters))) as fd:
            return read_counters(fd)

    def create(self, name: str) -> None:
        """Make the folder with zeroed counters where it is missing, or the counters where somebody took them away."""
        if self.counters.exists():
            return
        if self.path.exists():
            _pin_counters(self.counters, name)
            return
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        new = bpffs.building_place(self.path)
        new.mkdir(mode=0o700)
        _pin_counters(new / self.counters.name, name)
        new.rename(self.path)

    def remove(self) -> None:
        """Forget the device; its hook must be gone before."""
        bpffs.discard(self.path)


def _pin_counters(pin: Path, name: str) -> None:
    with opened(syscall.map_create(SHAPE, name)) as fd:
        syscall.obj_pin(fd, str(pin))


def _program_id(pin: Path) -> int | None:
    try:
        fd = syscall.obj_get(str(pin))
    except FileNotFoundError:
        return None
    with opened(fd):
        return syscall.program_info(fd).id


def pins_of(index: int, *, inner: bool = False) -> DevicePins:
    """Return the pins of a device of this namespace, there or not."""
    return DevicePins(_devices(inner) / str(index), inner)


def _devices(inner: bool) -> Path:
    return (folder() / FOLLOW if inner else folder()) / "devices"


def pinned_devices(*, inner: bool = False) -> Iterator[DevicePins]:
    """Yield what is pinned in this namespace, by index."""
    try:
        if not bpffs.present(folder()):
            return
        names = sorted(int(path.name) for path in _devices(inner).iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return
    except PermissionError:
        raise bpffs.no_permission() from None
    for index in names:
        yield pins_of(index, inner=inner)
