"""What stands at the egress of WireGuard devices that are followed: it puts each packet's class into its hash (carried.h).

It stands on a device, so it has to be put there when the device has come: by `follow`, by an attach or by a supervisor.
From then on it needs nobody: the device may change its port or its peers, be renamed, or go.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.abi import PORT_ELSEWHERE
from qosctl.bpf.kernel import netns
from qosctl.bpf.load.loader import Loader
from qosctl.bpf.maps.device_pins import DevicePins, pinned_devices, pins_of
from qosctl.bpf.maps.following import Carried, open_carried
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices import hooks, interfaces
from qosctl.supervisor.devices.hooks import Foreign, HookKind


@dataclass(frozen=True)
class Carrier:
    """A device whose packets carry their class.

    `port` is the UDP port that it sends from, None before its first packet; `elsewhere` is whether that port is one of
    another network namespace, where the device was made. `packets` have gone into it (GSO segments counted singly), and
    `ahead` is what others run there before our program.
    """

    name: str
    index: int
    port: int | None
    elsewhere: bool
    packets: int
    ahead: Sequence[Foreign]


def carriers() -> Sequence[Carrier]:
    """Return the devices where our program stands."""
    try:
        with open_carried() as carried:
            found = [_carrier(pins, carried) for pins in pinned_devices(inner=True)]
    except FileNotFoundError:  # nothing is followed so, or the last was given up while we looked
        return ()
    return tuple(carrier for carrier in found if carrier is not None)


def standing() -> frozenset[int]:
    """Return the indices of the devices where our program stands."""
    return frozenset(pins.index for pins in pinned_devices(inner=True) if _stands(pins))


def bring_up_to_date(wanted: Mapping[int, str], loader: Loader) -> None:
    """Have today's program on these devices, by index, and on no others.

    Callers hold the lock. Errors are those of an attach.
    """
    keep_only(wanted)
    for index, name in wanted.items():
        _put_on(pins_of(index, inner=True), name, loader)


def keep_only(wanted: Collection[int]) -> None:
    """Take the program off all devices but these."""
    for pins in list(pinned_devices(inner=True)):
        if pins.index not in wanted:
            _take_off(pins)


def pinned() -> frozenset[int]:
    """Return the indices of devices that have pins, there or not."""
    return frozenset(pins.index for pins in pinned_devices(inner=True))


def _put_on(pins: DevicePins, name: str, loader: Loader) -> None:
    pins.create(name)
    try:
        hooks.put(_kind(pins.index), pins, lambda: loader.load_carry(folder(), pins.path, netns.cookie()))
    except BaseException:
        if not _stands(pins):
            _take_off(pins)
        raise


def _kind(index: int) -> HookKind:
    """Behind our program that marks, where one stands on this device, too: at the same hook."""
    marks = hooks.in_use(pins_of(index))
    return HookKind.AUTO if marks is None else marks.kind


def _stands(pins: DevicePins) -> bool:
    return interfaces.name_of(pins.index) is not None and hooks.in_use(pins) is not None


def _take_off(pins: DevicePins) -> None:
    try:
        with open_carried() as carried:
            carried.forget(pins.index)
    except FileNotFoundError:
        pass  # no packet is marked by it any more
    hooks.take_off(pins, there=interfaces.name_of(pins.index) is not None)


def _carrier(pins: DevicePins, carried: Carried) -> Carrier | None:
    name = interfaces.name_of(pins.index)
    hook = hooks.in_use(pins) if name is not None else None
    if name is None or hook is None:
        return None
    port = carried.port_of(pins.index)
    elsewhere = port == PORT_ELSEWHERE
    packets = sum(traffic.packets for traffic in pins.read_counters().outer.values())
    return Carrier(name, pins.index, None if elsewhere else port, elsewhere, packets, tuple(hook.ahead()))
