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

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.device_pins import DevicePins, pins_of
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
        return _tcx_until(self._pins.index, self.attached(), self._marker())

    def attach(self, program_fd: int) -> None:
        """Update the link, or make one and pin it."""
        if self.attached() is not None:
            with self._link() as link:
                if link is not None:
                    syscall.link_update(link, program_fd)
                    return
        self._pins.link.unlink(missing_ok=True)
        with opened(self._new_link(program_fd)) as new:
            syscall.obj_pin(new, str(self._pins.link))

    def detach(self) -> None:
        """Detach the link whoever else holds it, and drop the pin."""
        with self._link() as link:
            if link is not None and syscall.link_info(link).ifindex:
                syscall.link_detach(link)
        self._pins.link.unlink(missing_ok=True)

    def _new_link(self, program_fd: int) -> int:
        marker = self._marker()
        if marker is None:
            return syscall.link_create_tcx_first(program_fd, self._pins.index)
        return syscall.link_create_tcx_after(program_fd, self._pins.index, marker)

    def _marker(self) -> int | None:
        """Return the id of our program that marks on the same device: an inner packet's class is read behind it."""
        return TcxHook(pins_of(self._pins.index)).attached() if self._pins.inner else None

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
        self._priority = clsact.PRIORITY + pins.inner

    def attached(self) -> int | None:
        """Return the id of the program in our filter."""
        return clsact.our_program(self._pins.index, self._priority)

    def ahead(self) -> list[Foreign]:
        """Return all TCX programs, which run before clsact, and the filters of a lower priority number."""
        filters = [Foreign(HookKind.CLSACT, text) for text in clsact.filters_ahead(self._pins.index, self._priority)]
        return _tcx_until(self._pins.index, None) + filters

    def attach(self, program_fd: int) -> None:
        """Replace our filter, making the qdisc where there is none."""
        index = self._pins.index
        if not clsact.has_qdisc(index):
            self._pins.note_clsact_is_ours()  # before it is: whoever is killed in between must not leave it behind
            if not clsact.ensure_qdisc(index):
                self._pins.forget_clsact()
        clsact.replace_filter(index, program_fd, self._priority)

    def detach(self) -> None:
        """Delete our filter; the qdisc too if we made it and nobody else uses it."""
        clsact.delete_filter(self._pins.index, self._priority)
        if self._pins.clsact_is_ours:
            clsact.delete_qdisc_if_empty(self._pins.index)
            self._pins.forget_clsact()


def _tcx_until(index: int, ours: int | None, marker: int | None = None) -> list[Foreign]:
    if not TcxHook.supported(index):
        return []
    before = itertools.takewhile(lambda program: program != ours, syscall.tcx_programs(index))
    others_programs = [program for program in before if program != marker]
    return [Foreign(HookKind.TCX, f"program {program}{_program_name(program)}") for program in others_programs]


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


def put(kind: HookKind, pins: DevicePins, load: Callable[[], int]) -> tuple[Hook, str]:
    """Have what `load` loads at the device's hook; return the hook, and "attached", "replaced" or "already".

    Each step can be the last: what a killed call left is completed by the next. RefusedError where the kernel says no.
    """
    before = in_use(pins)
    hook = before if before is not None and kind in (HookKind.AUTO, before.kind) else choose(kind, pins)
    with opened(load()) as program:
        change = "attached" if before is None else "replaced"
        if _same_program(hook, pins, program):
            change = "already"
        else:
            pins.announce_program(program)
            hook.attach(program)
        _confirm_what_is_attached(hook, pins)
        for other in others(hook, pins):  # after ours stands: a packet may pass both, but never none
            if other.attached() is not None:
                other.detach()
                change = "replaced"
    return hook, change


def take_off(pins: DevicePins, *, there: bool) -> None:
    """Take our program off the device, which may not be `there` any more, and forget its pins."""
    for hook in (TcxHook(pins), ClsactHook(pins)):
        if there or hook.kind is HookKind.TCX:
            hook.detach()
    pins.remove()


def _confirm_what_is_attached(hook: Hook, pins: DevicePins) -> None:
    """Give the program at the hook its name; done each time, since an earlier attach may have been killed before."""
    present = hook.attached()
    if present is None:
        raise RefusedError("the program was taken off again at once", "qosctl status")
    pins.confirm_program(present)


def _same_program(hook: Hook, pins: DevicePins, program: int) -> bool:
    """Whether the program at the hook is the same; one that is not pinned is taken for another: it is replaced."""
    present = hook.attached()
    fd = None if present is None else pins.open_program(present)
    if fd is None:
        return False
    with opened(fd):
        return syscall.same_program(fd, program)


def choose(kind: HookKind, pins: DevicePins) -> Hook:
    """Return the hook to attach to."""
    if kind is HookKind.CLSACT or (kind is HookKind.AUTO and not TcxHook.supported(pins.index)):
        return ClsactHook(pins)
    return TcxHook(pins)
