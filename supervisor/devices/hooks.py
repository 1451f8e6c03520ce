"""The two places at tc egress where a program can stand, behind one small interface.

TCX (Linux 6.6): a link, pinned so that it outlives us; ours goes to the head of the chain. clsact: a filter of a priority
and handle of our own, in a qdisc that may be somebody else's. Both replace a program without a packet in between.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from qosctl.bpf.kernel import syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.device_pins import DevicePins
from qosctl.supervisor.devices import clsact


class HookKind(enum.Enum):
    """Which hook to use; AUTO takes TCX where the kernel has it."""

    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


@dataclass(frozen=True)
class Foreign:
    """Somebody else's program or filter that runs before ours and can end the chain there."""

    where: HookKind
    description: str


class Hook(Protocol):
    """One device's hook. Programs go by descriptor in, by id out."""

    kind: HookKind

    def attached(self) -> int | None:
        """Return the id of our program there, as the kernel says, or None."""

    def ahead(self) -> list[Foreign]:
        """Return what runs before our program, in that order."""

    def attach(self, program_fd: int) -> None:
        """Put the program there, or in the place of the one that is there."""

    def detach(self) -> None:
        """Remove what attach made; nothing there is fine."""


class TcxHook:
    """The device's TCX egress hook."""

    kind = HookKind.TCX

    def __init__(self, pins: DevicePins) -> None:
        self._pins = pins

    @staticmethod
    def supported(index: int) -> bool:
        """Whether the kernel knows TCX."""
        try:
            syscall.tcx_programs(index)
        except PermissionError:
            raise
        except OSError:
            return False
        return True

    def attached(self) -> int | None:
        """Return the id of our program there; a link of a deleted device has none."""
        with self._link() as link:
            if link is None:
                return None
            # Asked of the device: after a move to another namespace a link may well stand elsewhere under our number.
            info = syscall.link_info(link)
            here = info.ifindex == self._pins.index and info.program_id in syscall.tcx_programs(info.ifindex)
            return info.program_id if here else None

    def ahead(self) -> list[Foreign]:
        """Return the TCX programs before ours."""
        return _tcx_until(self._pins.index, self.attached())

    def attach(self, program_fd: int) -> None:
        """Update the link, or make one and pin it."""
        if self.attached() is not None:
            with self._link() as link:
                if link is not None:
                    syscall.link_update(link, program_fd)
                    return
        self._pins.link.unlink(missing_ok=True)
        with opened(syscall.link_create_tcx_first(program_fd, self._pins.index)) as new:
            syscall.obj_pin(new, str(self._pins.link))

    def detach(self) -> None:
        """Detach the link whoever else holds it, and drop the pin."""
        with self._link() as link:
            if link is not None and syscall.link_info(link).ifindex:
                syscall.link_detach(link)
        self._pins.link.unlink(missing_ok=True)

    @contextmanager
    def _link(self) -> Iterator[int | None]:
        try:
            fd = syscall.obj_get(str(self._pins.link))
        except FileNotFoundError:
            yield None
            return
        with opened(fd):
            yield fd


class ClsactHook:
    """The device's clsact qdisc, egress side."""

    kind = HookKind.CLSACT

    def __init__(self, pins: DevicePins) -> None:
        self._pins = pins

    def attached(self) -> int | None:
        """Return the id of the program in our filter."""
        return clsact.our_program(self._pins.index)

    def ahead(self) -> list[Foreign]:
        """Return all TCX programs, which run before clsact, and the filters of a lower priority number."""
        filters = [Foreign(HookKind.CLSACT, text) for text in clsact.filters_ahead(self._pins.index)]
        return _tcx_until(self._pins.index, None) + filters

    def attach(self, program_fd: int) -> None:
        """Replace our filter, making the qdisc where there is none."""
        index = self._pins.index
        if not clsact.has_qdisc(index):
            self._pins.note_clsact_is_ours()  # before it is: whoever is killed in between must not leave it behind
            if not clsact.ensure_qdisc(index):
                self._pins.forget_clsact()
        clsact.replace_filter(index, program_fd)

    def detach(self) -> None:
        """Delete our filter; the qdisc too if we made it and nobody else uses it."""
        clsact.delete_filter(self._pins.index)
        if self._pins.clsact_is_ours:
            clsact.delete_qdisc_if_empty(self._pins.index)
            self._pins.forget_clsact()


def _tcx_until(index: int, ours: int | None) -> list[Foreign]:
    if not TcxHook.supported(index):
        return []
    before = itertools.takewhile(lambda program: program != ours, syscall.tcx_programs(index))
    return [Foreign(HookKind.TCX, f"program {program}{_program_name(program)}") for program in before]


def _program_name(program_id: int) -> str:
    """Name somebody else's program, which has no pin of ours: only where we have CAP_SYS_ADMIN anyway."""
    try:
        fd = syscall.program_by_id(program_id)
    except FileNotFoundError:  # it left between the two calls
        return " (gone)"
    except PermissionError:
        return ""
    with opened(fd):
        return f" ({syscall.program_info(fd).name or 'unnamed'})"


_HOOKS: tuple[Callable[[DevicePins], Hook], ...] = (TcxHook, ClsactHook)


def in_use(pins: DevicePins) -> Hook | None:
    """Return the hook where our program stands now, or None."""
    for _ in range(2):  # an attach that moves the program between hooks is at neither for whoever asks in the wrong order
        for hook in (make(pins) for make in _HOOKS):
            if hook.attached() is not None:
                return hook
    return None


def others(hook: Hook, pins: DevicePins) -> list[Hook]:
    """Return the hooks of another kind than `hook`."""
    return [other for other in (make(pins) for make in _HOOKS) if other.kind is not hook.kind]


def choose(kind: HookKind, pins: DevicePins) -> Hook:
    """Return the hook to attach to."""
    if kind is HookKind.CLSACT or (kind is HookKind.AUTO and not TcxHook.supported(pins.index)):
        return ClsactHook(pins)
    return TcxHook(pins)
