"""Following tunnels that others run: the counterparts of `qosctl follow` and `qosctl unfollow`.

Programs on two sides do it together: on the inner side (inner_side.py) one knows a packet's class before it is encrypted;
the one at the egress of each attached device finds it again in the datagram that leaves. While nothing is followed, neither
is the first loaded, nor is anything of this in the second. The pins are the state, as everywhere: marking goes on when
every process of ours is dead, and what a killed command left is brought up to date by the next one, or by an attach.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.errors import NotAttachedError, RefusedError, UsageError, kernel_errors
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.load.loader import LOADER, Loader
from qosctl.bpf.maps.following import ANY_REST, Reads, follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import create_state, folder, release_state
from qosctl.supervisor.devices import attach, carriers, inner_side
from qosctl.supervisor.devices.carriers import Carrier
from qosctl.supervisor.devices.interfaces import NAME_BYTES_MAX
from qosctl.supervisor.devices.tunnel_kinds import Device, devices, matching
from qosctl.supervisor.process import interrupts


@dataclass(frozen=True)
class Followed:
    """One name or pattern that is followed: the devices it means now, and what was read from them."""

    pattern: str
    devices: Sequence[Device]
    reads: Reads


@dataclass(frozen=True)
class Following:
    """All that is followed in this network namespace.

    `running` is whether all programs of the inner side are where they belong; `carriers` are the WireGuard devices.
    """

    running: bool
    patterns: Sequence[Followed]
    carriers: Sequence[Carrier] = ()

    @property
    def tunnels(self) -> Sequence[str]:
        """The names of the devices that are followed, there now and fit for it."""
        return sorted({device.name for each in self.patterns for device in each.devices if not device.refusal})


NOTHING_FOLLOWED = Following(running=False, patterns=())


def follow(patterns: Sequence[str], *, to_come: bool = False, loader: Loader = LOADER) -> list[bool]:
    """Mark the outer packets of these tunnels of others; say of each whether that is new.

    A pattern is a device's name, or how names begin and a star. A device that is named must be there, and must be one that
    can be followed, unless it may be `to_come`. All of them are looked at before anything is done. What is followed
    besides is brought up to date; without patterns that is all. Raises UsageError, RefusedError (the kernel has no BTF, or
    refuses), NoPermissionError.
    """
    for pattern in patterns:
        check_pattern(pattern)
    if not to_come:
        there = devices()
        for pattern in patterns:
            _refuse(pattern, there)
    bpffs.ensure_mounted()
    with bpffs.locked(), interrupts.held(), kernel_errors("follow"):
        if not patterns and not follow_pins().path.exists():
            return []
        inner_side.check(inner_side.plan(patterns))
        create_state()
        try:
            return _follow(patterns, loader)
        finally:
            release_state()


def unfollow(patterns: Sequence[str], *, loader: Loader = LOADER) -> None:
    """Follow these no more, from the next packet on.

    NotAttachedError, before anything is done, where one of them is not followed.
    """
    with bpffs.locked(), interrupts.held(), kernel_errors("unfollow"):
        followed = _patterns()
        for pattern in patterns:
            if pattern not in followed:
                raise NotAttachedError(f"{pattern}: not followed", "qosctl status")
        _unfollow(patterns, loader)


def unfollow_all(*, loader: Loader = LOADER) -> list[str]:
    """Follow nothing any more, and return what was followed; NotAttachedError where that was nothing."""
    with bpffs.locked(), interrupts.held(), kernel_errors("unfollow"):
        followed = _patterns()
        if not follow_pins().path.exists():
            raise NotAttachedError("nothing is followed in this network namespace", "qosctl follow DEV")
        _unfollow(followed, loader)
        return followed


def check_pattern(pattern: str) -> None:
    """Raise a UsageError where this is neither a device's name nor the beginning of one and a star."""
    name = pattern.removesuffix(ANY_REST)
    if ANY_REST in name or any(letter in name for letter in "?[]"):
        raise UsageError(f"{pattern!r}: a pattern is how names begin, and a star behind", "qosctl follow 'vpns*'")
    no_letter = any(letter in "/:\0" or letter.isspace() for letter in name)  # dev_valid_name() in net/core/dev.c
    if len(os.fsencode(name)) > NAME_BYTES_MAX or no_letter or (not name and pattern != ANY_REST):
        raise UsageError(f"{pattern!r} is no name of a device", "ip link")


def following() -> Following:
    """Read what is followed; nothing where there is no state."""
    with kernel_errors("status"):
        if not bpffs.present(folder()) or not follow_pins().path.exists():
            return NOTHING_FOLLOWED
        try:
            with open_patterns(follow_pins()) as patterns:
                reads = patterns.reads()  # once: others may change what is followed meanwhile
        except FileNotFoundError:  # the last was given up while we looked
            return NOTHING_FOLLOWED
        there = devices() if reads else {}
        followed = [Followed(each, [there[name] for name in matching(each, there)], read) for each, read in reads.items()]
        return Following(running=not inner_side.lacking(), patterns=followed, carriers=carriers.carriers())


def _follow(patterns: Sequence[str], loader: Loader) -> list[bool]:
    pins = follow_pins()
    first = not pins.path.exists()
    before = inner_side.plan()
    needed = inner_side.plan(patterns)
    pins.create()
    try:
        with open_patterns(pins) as opened:
            opened.check_room(patterns)
        inner_side.provide(needed)
        attach.bring_all_up_to_date(loader)
        inner_side.bring_up_to_date(needed, loader)
    except BaseException:
        if first:
            _give_up(loader)
        else:
            carriers.keep_only(before.carriers)
        raise
    known, new = set(before.patterns), []
    for pattern in patterns:
        new.append(pattern not in known)
        known.add(pattern)
    return new


def _unfollow(patterns: Sequence[str], loader: Loader) -> None:
    with open_patterns(follow_pins()) as opened:
        for pattern in patterns:
            opened.remove(pattern)
        left = opened.all()
    if not left:
        _give_up(loader)
        return
    needed = inner_side.plan()
    carriers.keep_only(needed.carriers)
    if inner_side.provide(needed):
        attach.bring_all_up_to_date(loader)


def _give_up(loader: Loader) -> None:
    inner_side.take_away()
    attach.bring_all_up_to_date(loader)
    release_state()


def _patterns() -> list[str]:
    if not bpffs.present(folder()):
        return []
    try:
        with open_patterns(follow_pins()) as opened:
            return list(opened.all())
    except FileNotFoundError:
        return []


def _refuse(pattern: str, there: Mapping[str, Device]) -> None:
    if pattern.endswith(ANY_REST):
        return
    if pattern not in there:
        raise RefusedError(f"{pattern}: no such device", f"ip link; or for devices to come: qosctl follow '{pattern}*'")
    if there[pattern].refusal:
        raise RefusedError(f"{pattern}: {there[pattern].refusal}", there[pattern].hint)
