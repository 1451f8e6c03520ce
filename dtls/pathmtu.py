"""How large an inner packet DTLS carries to the server and back: learnt by probes (RFC 8899 in spirit). No I/O, no clock.

    at once, then every CONFIRM_S while packets leave:   a probe as large as the largest packet
        echoed ----------------------> all is well
        lost TRIES times, while smaller things arrive -> a black hole: fall to the floor, search from there
    the kernel says "too big" -------> at most that, at once, then as above
    below the ceiling for RAISE_S ---> a probe of the ceiling: the path may have recovered; twice as long each time

A probe is a DPD request padded to the size in question, which the server echoes in full. Sizes are bytes of inner packet.
What is too large for DTLS is not lost meanwhile: the loop sends it over TLS, which has no such limit.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

CONFIRM_S = 5.0
RAISE_S = 60.0
RAISE_MAX_S = 600.0
TRIES = 4
"""Losses in a row that are a black hole and not bad luck: at 30 % loss each way, 7 in 100 (and then it recovers)."""
SEARCH_TRIES = 2
"""The same while searching, where bad luck only means a smaller size until the next attempt to raise it."""
PROBE_WAIT_S = 0.4
CLOSE_ENOUGH = 8
FLOOR_BYTES = 508
"""Fits every path that IPv4 promises (576 bytes, RFC 791) with UDP and a record around it."""
_ID = 8
_KEPT = 16
PROBE_BYTES_MIN = 64
"""Every size in question is above this, and the payloads of other DPD requests are below."""


@dataclass(frozen=True)
class Probe:
    """One to send: pad a DPD request so that it is as large as an inner packet of `size` bytes."""

    id: int
    size: int

    @property
    def payload(self) -> bytes:
        """The DPD request's payload."""
        return self.id.to_bytes(_ID) + bytes(self.size - _ID)


class _Phase(enum.Enum):
    CONFIRM = enum.auto()
    SEARCH = enum.auto()
    RAISE = enum.auto()


class PathMtu:
    """The belief about one DTLS channel. `size` is what to send at most; call `due` at `next_time`."""

    def __init__(self, ceiling: int, now: float) -> None:
        self.size = self._ceiling = ceiling
        self._floor = min(FLOOR_BYTES, ceiling)
        self._phase = _Phase.CONFIRM
        self._passes, self._fails = self._floor, ceiling + 1  # while searching
        self._target = ceiling
        self._tries = 0
        self._next = now
        self._raise_s = RAISE_S
        self._raise_at = math.inf
        self._sent: dict[int, int] = {}
        self._last_id = 0
        self.shrunk = False
        """Whether the path is known to take less than the ceiling, and how much it takes is known too."""
        self.black_holes = 0
        """How often packets of the present size had stopped to pass without a word from the path."""

    def due(self, now: float, *, heard: float, said: float) -> Probe | None:
        """Return the probe to send now, if any. `heard` and `said` are when anything last came and went on the channel."""
        if now < self._next:
            return None
        if self._tries >= (SEARCH_TRIES if self._phase is _Phase.SEARCH else TRIES):
            if heard < now - TRIES * PROBE_WAIT_S:
                self._tries = 0  # nothing at all arrives: that is not about sizes
            else:
                self._take_loss(now)
        if not self._tries and not self._choose(now, said):
            self._next = now + CONFIRM_S
            return None
        self._tries += 1
        self._next = now + PROBE_WAIT_S
        self._last_id += 1
        self._sent[self._last_id] = self._target
        if len(self._sent) > _KEPT:
            del self._sent[next(iter(self._sent))]
        return Probe(self._last_id, self._target)

    def next_time(self) -> float:
        """Return when to ask `due` again."""
        return self._next

    def echoed(self, payload: bytes, now: float) -> None:
        """Take the payload of an echo; what is none of ours changes nothing. Total."""
        size = self._sent.pop(int.from_bytes(payload[:_ID]), None)
        if size is None or size != len(payload):
            return
        self.size = max(self.size, size)
        if size < self._target:
            return  # a late one, of a smaller probe
        self._tries = 0
        if self._phase is _Phase.SEARCH:
            self._passes = size
            self._search_on(now)
        else:
            self._settle(now)

    def too_big(self, size: int, now: float) -> None:
        """Learn from the kernel that no more than `size` bytes pass now; nothing is believed that is below the floor."""
        size = max(self._floor, size)
        if size < self.size:
            self.size = size
            self._phase, self._tries, self._next = _Phase.CONFIRM, 0, now
            self._raise_at = now + self._raise_s

    def _choose(self, now: float, said: float) -> bool:
        """Choose what to probe next; False when nothing is worth a probe."""
        if self._phase is _Phase.SEARCH:
            self._target = (self._passes + self._fails) // 2
        elif now >= self._raise_at:
            self._phase, self._target = _Phase.RAISE, self._ceiling
        else:
            self._phase, self._target = _Phase.CONFIRM, self.size
            return said > now - CONFIRM_S
        return True

    def _take_loss(self, now: float) -> None:
        """Believe that the target does not pass."""
        self._tries = 0
        self._fails = self._target
        if self._phase is _Phase.CONFIRM:
            self.black_holes += 1
            self.size = self._floor
        if self._phase is not _Phase.SEARCH:
            self._phase, self._passes = _Phase.SEARCH, self.size
        self._search_on(now)

    def _search_on(self, now: float) -> None:
        if self._fails - self._passes > CLOSE_ENOUGH:
            self._next = now
        else:
            self._settle(now)

    def _settle(self, now: float) -> None:
        """Stay at what passes for a while."""
        self.shrunk = self.size < self._ceiling
        self._phase, self._next = _Phase.CONFIRM, now + CONFIRM_S
        if self.size >= self._ceiling:
            self._raise_s, self._raise_at = RAISE_S, math.inf
        elif now >= self._raise_at or self._raise_at == math.inf:
            self._raise_at = now + self._raise_s
            self._raise_s = min(2 * self._raise_s, RAISE_MAX_S)
