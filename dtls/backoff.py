"""How soon to try again: at once the first times, then ever later, anew after a calm. No clock: `now` comes in.

Someone else's daemon that deletes what we repair, and a device that comes and goes, must not make us busy.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

_DOUBLINGS_MAX = 20


@dataclass
class _Tries:
    count: int
    last: float


@dataclass
class KeyedBackoff:
    """Tries by what is tried: `free` of them without a wait, then after `first_s`, doubled each time up to `longest_s`.

    After `calm_s` without a try it begins anew. Times are seconds of one clock that never goes back.
    """

    free: int
    first_s: float
    longest_s: float
    calm_s: float
    _tries: dict[Hashable, _Tries] = field(default_factory=dict)

    def due(self, what: Hashable, now: float) -> float:
        """Return when it may be tried: `now`, or later."""
        tries = self._tries.get(what)
        if tries is None or tries.count < self.free:
            return now
        wait = self.first_s * 2.0 ** min(tries.count - self.free, _DOUBLINGS_MAX)
        return max(now, tries.last + min(wait, self.longest_s))

    def waits(self, what: Hashable) -> bool:
        """Whether the tries without a wait are used up."""
        tries = self._tries.get(what)
        return tries is not None and tries.count >= self.free

    def tried(self, what: Hashable, now: float) -> None:
        """Note a try."""
        self._tries = {key: tries for key, tries in self._tries.items() if now - tries.last <= self.calm_s}
        before = self._tries.get(what, _Tries(0, now))
        self._tries[what] = _Tries(before.count + 1, now)

    def forget(self, what: Hashable) -> None:
        """Begin anew: it went well."""
        self._tries.pop(what, None)

    def forget_all(self) -> None:
        """Begin anew with everything: someone has mended something by hand."""
        self._tries.clear()
