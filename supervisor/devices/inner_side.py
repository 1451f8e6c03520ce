"""The inner side of what is followed: what it takes, by the kinds of the devices that are there, and bringing it about.

Names and patterns are stored (following.py); which of the two ways they need depends on the devices that they mean: what
programs read from TUN devices is noted at a tracepoint (tun_reads.py), packets of WireGuard devices carry their class
themselves (carriers.py). A way that nothing needs is not there, neither here nor in the program that marks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import or_

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.loader import Loader
from qosctl.bpf.maps.following import follow_pins, open_patterns
from qosctl.supervisor.devices import carriers, tun_reads
from qosctl.supervisor.devices.tunnel_kinds import Device, devices, matching, of_the_kernel


@dataclass(frozen=True)
class Plan:
    """What following takes: the ways of each pattern, and the devices, by index, on which our program has to stand."""

    patterns: Mapping[str, FollowWay]
    carriers: Mapping[int, str]

    @property
    def ways(self) -> FollowWay:
        """All ways that are needed."""
        return functools.reduce(or_, self.patterns.values(), FollowWay(0))


def plan(more: Sequence[str] = ()) -> Plan:
    """Say what it takes to follow what is followed, and `more`."""
    known = _known()
    if not known and not more:
        return Plan({}, {})
    there = devices()
    return Plan(
        {pattern: _ways(pattern, known.get(pattern), there) for pattern in dict.fromkeys([*known, *more])},
        {device.index: device.name for device in _carrying([*known, *more], there)},
    )


def check(needed: Plan) -> None:
    """Raise a RefusedError, before anything is done, where the kernel does not say of itself what has to be known."""
    if FollowWay.READS in needed.ways:
        kernel_layout.following()
    if needed.carriers:
        kernel_layout.wireguard()


def provide(needed: Plan) -> bool:
    """Make the maps that are missing, and anew those of another layout; say whether a way came or went.

    Callers hold the lock.
    """
    pins = follow_pins()
    if not pins.path.exists():
        return False
    if not pins.are_of_this_layout():
        take_away()
        pins.create()
    if FollowWay.READS not in needed.ways:
        tun_reads.take_away()
    if FollowWay.HASH not in needed.ways:
        carriers.keep_only(())
    return pins.provide(needed.ways)


def bring_up_to_date(needed: Plan, loader: Loader) -> None:
    """Have the programs of the inner side where they belong, and note the patterns' ways. Callers hold the lock.

    RefusedError where the kernel does not take them.
    """
    if not follow_pins().path.exists():
        return
    tun_reads.bring_up_to_date(loader)
    carriers.bring_up_to_date(needed.carriers, loader)
    with open_patterns(follow_pins()) as patterns:
        for pattern, ways in needed.patterns.items():
            patterns.add(pattern, ways)


def take_away() -> None:
    """Follow nothing, and leave nothing behind. Callers hold the lock."""
    carriers.keep_only(())
    follow_pins().remove()


def lacking() -> bool:
    """Whether a program is missing where it belongs, or stands where it does not any more: another `follow` mends that."""
    pins = follow_pins()
    if FollowWay.READS in pins.ways and tun_reads.standing() is None:
        return True
    return unserved(list(_known())) != frozenset()


def unserved(patterns: Sequence[str]) -> frozenset[int]:
    """Return the devices, by index, on which our program has to stand and does not, or the other way round."""
    there = of_the_kernel() if patterns else {}
    wanted = frozenset(there[name] for pattern in patterns for name in matching(pattern, there))
    return wanted - carriers.standing() | carriers.pinned() - wanted


def _known() -> Mapping[str, FollowWay]:
    try:
        with open_patterns(follow_pins()) as patterns:
            return patterns.ways()
    except (OSError, ValueError):  # nothing is followed, or the maps are of another layout
        return {}


def _ways(pattern: str, before: FollowWay | None, there: Mapping[str, Device]) -> FollowWay:
    """Those of its devices; with none there those of before, or the one that needs nobody when a device comes."""
    found = (there[name].way for name in matching(pattern, there) if not there[name].refusal)
    return functools.reduce(or_, found, FollowWay(0)) or before or FollowWay.READS


def _carrying(patterns: Sequence[str], there: Mapping[str, Device]) -> list[Device]:
    names = {name for pattern in patterns for name in matching(pattern, there)}
    return [there[name] for name in sorted(names) if there[name].way is FollowWay.HASH and not there[name].refusal]
