"""From the configuration and the current state to a list of actions: pure functions, no I/O, no clock.

A configured device is attached by a separate process, which compiles for half a second. A device that was attached and
lost its program (someone deleted clsact, or replaced the program) still has the program pinned: it goes back in a
millisecond. Devices that people attached by hand are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.supervise.config import Config

GONE_KEPT_S = 600.0
"""How long a deleted device's counters stay readable."""
GONE_KEPT = 16
"""How many deleted devices' counters stay at most: devices with ever new names must not fill the pins."""


@dataclass(frozen=True)
class Link:
    """A device of this namespace that is wanted: `ethernet` says whether its packets begin with an Ethernet header."""

    name: str
    ethernet: bool


@dataclass(frozen=True)
class Pinned:
    """A device that was attached: where its program stands now (None: nowhere), and whether it is the one pinned."""

    hook: HookKind | None
    intact: bool


@dataclass(frozen=True)
class Observed:
    """The current state. By interface index: `names` of all links, `links` that are wanted, `pinned` that were attached.

    `maps` tells this namespace's maps from others made later; None where there are none. `followed` are the names and
    patterns of tunnels of other programs, none of them where our program is not at the tracepoint. `unserved` are WireGuard
    devices, by index, that have come or have another name since they were looked at, or that are gone.
    """

    names: Mapping[int, str]
    links: Mapping[int, Link]
    pinned: Mapping[int, Pinned]
    maps: int | None
    followed: frozenset[str] = frozenset()
    unserved: frozenset[int] = frozenset()

    @property
    def gone(self) -> list[int]:
        """Devices that were attached and are deleted."""
        return [index for index in self.pinned if index not in self.names]


@dataclass(frozen=True)
class Attachment:
    """Where a program of this version was attached: the link it was made for, and the hook it stood at."""

    link: Link
    hook: HookKind

    def fits(self, link: Link) -> bool:
        """Whether its program reads the packets of `link` correctly."""
        return self.link.ethernet == link.ethernet


@dataclass(frozen=True)
class AppliedSettings:
    """The maps that switch and policy were set in, and the configuration then."""

    maps: int
    config: Config


@dataclass(frozen=True)
class Memory:
    """What the supervisor knows from before; all of it can be lost.

    `current`: devices whose pinned program is of this version. `managed`: devices that a configuration of ours wanted.
    `there_since` and `gone_since`: when a wanted one was first seen, and when one was first missed. `followed`: what a
    configuration of ours wanted followed.
    """

    current: Mapping[int, Attachment] = field(default_factory=dict)
    managed: frozenset[int] = frozenset()
    there_since: Mapping[int, float] = field(default_factory=dict)
    gone_since: Mapping[int, float] = field(default_factory=dict)
    settings: AppliedSettings | None = None
    followed: frozenset[str] = frozenset()

    def missed_since(self, index: int, now: float) -> float:
        """Return when that device was first missed: now, where it has not been before."""
        return self.gone_since.get(index, now)

    def after_look(self, observed: Observed, now: float) -> Memory:
        """Return the memory after a look: devices that went are forgotten, or begin their time as gone."""
        attached = {i for i, pinned in observed.pinned.items() if i in observed.links and pinned.hook is not None}
        current = {
            index: Attachment(observed.links[index], _hook_now(observed.pinned[index], known.hook))
            for index, known in self.current.items()
            if index in observed.links and index in observed.pinned and known.fits(observed.links[index])
        }
        return replace(
            self,
            current=current,
            managed=frozenset(index for index in self.managed | attached if index in observed.pinned),
            there_since={index: self.there_since.get(index, now) for index in observed.links},
            gone_since={index: self.missed_since(index, now) for index in observed.gone},
        )

    def with_followed(self, config: Config, observed: Observed) -> Memory:
        """Return the memory with what is followed as configured, and what was and still is."""
        return replace(self, followed=observed.followed & self.followed.union(config.follow or ()))

    def after_attach(self, request: Attach, hook: HookKind) -> Memory:
        """Return the memory after an attach that went well."""
        attachment = Attachment(Link(request.name, request.ethernet), hook)
        current = {**self.current, request.index: attachment}
        return replace(self, current=current, managed=self.managed | {request.index})

    def after_failed_reattach(self, index: int) -> Memory:
        """Return the memory after the pinned program could not be put back: a whole attach is due."""
        return replace(self, current={i: known for i, known in self.current.items() if i != index})

    def after_reload(self) -> Memory:
        """Return the memory for a configuration read again: it is applied even where nothing in it has changed."""
        return replace(self, settings=None)

    def after_settings(self, maps: int, config: Config) -> Memory:
        """Return the memory after switch and policy were set."""
        return replace(self, settings=AppliedSettings(maps, config))


def _hook_now(pinned: Pinned, before: HookKind) -> HookKind:
    """Someone may have attached by hand with another hook: that is where it belongs from now on."""
    return pinned.hook if pinned.hook is not None and pinned.intact else before


@dataclass(frozen=True)
class ApplySettings:
    """Set policy and switch as configured."""


@dataclass(frozen=True)
class Reattach:
    """Put the pinned program back to its hook."""

    index: int
    name: str
    hook: HookKind


@dataclass(frozen=True)
class Attach:
    """Attach, or bring up to date, in a process of its own."""

    index: int
    name: str
    hook: HookKind
    ethernet: bool


@dataclass(frozen=True)
class Detach:
    """Take the program off: no longer wanted."""

    index: int
    name: str


@dataclass(frozen=True)
class DropPins:
    """Drop the pins of a device that is long gone."""

    index: int


@dataclass(frozen=True)
class Follow:
    """Follow all of `wanted` and none of `dropped`, in a process of its own, and bring all that is followed up to date."""

    wanted: tuple[str, ...]
    dropped: tuple[str, ...]

    name = "what is followed"
    """In place of a device's; none has blanks in it."""


Action = ApplySettings | Reattach | Attach | Detach | DropPins | Follow


def plan(config: Config, observed: Observed, memory: Memory, now: float) -> list[Action]:
    """Return what is to be done, in this order; nothing where all is as it shall be."""
    actions: list[Action] = []
    if _settings_due(config, observed, memory):
        actions.append(ApplySettings())
    for index, link in observed.links.items():
        actions += _for_wanted(config, index, link, observed.pinned.get(index), memory)
    actions += _for_unwanted(observed, memory)
    actions += _for_gone(observed, memory, now)
    actions += _for_followed(config, observed, memory)
    return actions


def _settings_due(config: Config, observed: Observed, memory: Memory) -> bool:
    has_settings = config.passtos is not None or config.policy is not None
    return has_settings and observed.maps is not None and memory.settings != AppliedSettings(observed.maps, config)


def _for_wanted(config: Config, index: int, link: Link, pinned: Pinned | None, memory: Memory) -> Iterator[Action]:
    known = memory.current.get(index)
    if pinned is not None and known is not None and known.fits(link):
        if pinned.hook is None or not pinned.intact:
            yield Reattach(index, link.name, known.hook)
        if config.hook in (HookKind.AUTO, known.hook):
            return
    yield Attach(index, link.name, config.hook, link.ethernet)


def _for_unwanted(observed: Observed, memory: Memory) -> Iterator[Action]:
    for index in observed.pinned:
        if index in memory.managed and index in observed.names and index not in observed.links:
            yield Detach(index, observed.names[index])


def _for_gone(observed: Observed, memory: Memory, now: float) -> Iterator[Action]:
    gone = sorted(observed.gone, key=lambda index: memory.missed_since(index, now))
    for n, index in enumerate(gone):
        if now - memory.missed_since(index, now) > GONE_KEPT_S or n < len(gone) - GONE_KEPT:
            yield DropPins(index)


def _for_followed(config: Config, observed: Observed, memory: Memory) -> Iterator[Action]:
    wanted = config.follow or ()
    dropped = memory.followed & observed.followed - set(wanted) if config.follow is not None else frozenset()
    if dropped or observed.unserved or not observed.followed.issuperset(wanted):
        yield Follow(wanted, tuple(sorted(dropped)))
