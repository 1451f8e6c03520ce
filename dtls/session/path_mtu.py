"""How large an inner packet DTLS carries to the server and back: learnt by probes (RFC 8899 in spirit). No I/O, no clock.

    at once, then every CONFIRM_S while packets leave:   a probe as large as the largest packet
        echoed ----------------------> all is well
        lost again and again, while small ones sent beside it arrive -> a black hole: fall to the floor, search from there
    somebody says "too big" ---------> the same at once and faster; he is believed when probes have shown it
    below the ceiling for RAISE_S ---> a probe of the ceiling: the path may have recovered; twice as long each time

A probe is a DPD request padded to the size in question, which the server echoes in full. Sizes are bytes of inner packet.
A small probe goes with each large one, in the same class and so through the same queue. A full queue loses both, and must
not be taken for a path that has shrunk. Only if small ones arrive and large ones do not, size is the reason. And only
small ones that came back without waiting count: a queue that is full to the byte has room for them and never for a large
one. Packets that are too large for DTLS are not lost meanwhile: the loop sends them over TLS, which has no such limit.

"Too big" (ICMP) needs no key and may come from anywhere, so it changes nothing by itself (RFC 8899 section 4.6.2). It says
when to look, and where to begin if it turns out to be true.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

CONFIRM_S = 5.0
RAISE_S = 60.0
RAISE_MAX_S = 600.0
SMALL_ONES = 12
"""Small ones that must have come back, and no large one, before a size that did pass is given up. Where a queue drops 60 %
of the large and 50 % of the small, that happens by chance once in some 10,000 confirmations."""
UNQUEUED_FACTOR, UNQUEUED_S = 1.5, 0.02
"""A round trip up to this times the shortest, and this many seconds, has not waited in a queue worth the name."""
SEARCH_SMALL_ONES = 2
"""The same while searching, where bad luck only means a smaller size until the next attempt to raise it."""
RAISE_SMALL_ONES = 4
"""The same while trying whether more passes again, where bad luck means to try later."""
PROBE_WAIT_S = 0.25
HINTED_WAIT_S = 0.05
"""The same while a hint is looked into: packets may be lost meanwhile. As many probes are asked, so no less is certain."""
HINT_PAUSE_S = 1.0
"""Hints that follow another sooner are passed over: nobody shall have us send more than some probes a second."""
CLOSE_ENOUGH = 8
FLOOR_BYTES = 508
"""Fits every path that IPv4 promises (576 bytes, RFC 791) with UDP and a record around it."""
_KEPT = 64


@dataclass(frozen=True)
class Probe:
    """One to send: a DPD request as large as an inner packet of `size` bytes, and beside it a small one with its id."""

    id: int
    size: int


class _Phase(enum.Enum):
    CONFIRM = enum.auto()
    SEARCH = enum.auto()
    RAISE = enum.auto()


_SMALL_ONES = {
    _Phase.CONFIRM: SMALL_ONES,
    _Phase.SEARCH: SEARCH_SMALL_ONES,
    _Phase.RAISE: RAISE_SMALL_ONES,
}


class PathMtu:
    """The belief about one DTLS channel. `size` is what to send at most; call `due` at `next_time`."""

    def __init__(self, ceiling: int, now: float) -> None:
        self.size = self._ceiling = ceiling
        self._floor = min(FLOOR_BYTES, ceiling)
        self._phase = _Phase.CONFIRM
        self._passes, self._fails = self._floor, ceiling + 1  # while searching
        self._target = ceiling
        self._trying = False
        self._round_from = 0  # the id of the first probe of the present target
        self._small_back = 0
        self._small_sent: dict[int, float] = {}
        self._shortest_s = math.inf
        self._next = now
        self._raise_s = RAISE_S
        self._raise_at = math.inf
        self._hint = 0  # the size that somebody says would pass; 0 when nobody has said anything
        self._deaf_until = now
        self._sent: dict[int, int] = {}
        self._last_id = 0
        self.shrunk = False
        """Whether the path is known to take less than the ceiling, and how much it takes is known too."""
        self.black_holes = 0
        """How often packets of the present size had stopped to pass without a word from the path."""
        self.whole = False
        """Whether a probe of the ceiling has passed: the path takes whatever may come."""

    def due(self, now: float, *, last_tx: float) -> Probe | None:
        """Return the probe to send now, if any, with the small one beside it. `last_tx` is when we last sent a packet."""
        if now < self._next:
            return None
        if self._trying and self._small_back >= _SMALL_ONES[self._phase]:
            self._take_loss(now)
        if not self._trying:
            if not self._choose(now, last_tx):
                self._next = now + CONFIRM_S
                return None
            self._trying, self._round_from, self._small_back = True, self._last_id + 1, 0
        self._next = now + (HINTED_WAIT_S if self._hint and self._phase is _Phase.CONFIRM else PROBE_WAIT_S)
        self._last_id += 1
        self._sent[self._last_id] = self._target
        self._small_sent[self._last_id] = now
        for kept in (self._sent, self._small_sent):
            if len(kept) > _KEPT:
                del kept[next(iter(kept))]
        return Probe(self._last_id, self._target)

    def next_time(self) -> float:
        """Return when to ask `due` again."""
        return self._next

    def small_echoed(self, probe: int, now: float) -> None:
        """Learn that a small one is back, by its id. An id nobody sent changes nothing."""
        sent = self._small_sent.pop(probe, None)
        if sent is None:
            return
        self._shortest_s = min(self._shortest_s, now - sent)
        unqueued = now - sent <= UNQUEUED_FACTOR * self._shortest_s + UNQUEUED_S
        if self._trying and probe >= self._round_from and unqueued:
            self._small_back += 1

    def echoed(self, probe: int, size: int, now: float) -> None:
        """Learn that a probe of `size` bytes is back, by its id; what is none of ours changes nothing."""
        if self._sent.pop(probe, None) != size:
            return
        self.size = max(self.size, size)
        self.whole = self.size >= self._ceiling
        if size < self._target:
            return  # a late one, of a smaller probe
        self._trying = False
        if self._phase is _Phase.SEARCH:
            self._passes = size
            self._search_on(now)
        else:
            self._settle(now)

    def hinted(self, size: int, now: float) -> None:
        """Somebody says that no more than `size` bytes pass now: look into it."""
        if self._phase is _Phase.CONFIRM and not self._hint and now >= self._deaf_until:
            self._deaf_until = now + HINT_PAUSE_S
            self._hint = max(1, size)
            self._next = now

    def _choose(self, now: float, last_tx: float) -> bool:
        """Choose what to probe next; False when nothing is worth a probe."""
        if self._phase is _Phase.SEARCH:
            self._target = self._guess()
        elif now >= self._raise_at:
            self._phase, self._target = _Phase.RAISE, self._ceiling
        else:
            self._phase, self._target = _Phase.CONFIRM, self.size
            return self._hint > 0 or last_tx > now - CONFIRM_S
        return True

    def _guess(self) -> int:
        """Return the next size of a search: the hinted one first, then a little more, for it is mostly right."""
        for size in (self._hint, self._hint + CLOSE_ENOUGH):
            if self._passes < size < self._fails:
                return size
        return (self._passes + self._fails) // 2

    def _take_loss(self, now: float) -> None:
        """Believe that the target does not pass."""
        self._trying = False
        self._fails = self._target
        if self._phase is _Phase.CONFIRM:
            self.black_holes += not self._hint
            self.size, self.whole = self._floor, False
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
        self._hint = 0
        self.shrunk = self.size < self._ceiling
        self._phase, self._next = _Phase.CONFIRM, now + CONFIRM_S
        if self.size >= self._ceiling:
            self._raise_s, self._raise_at = RAISE_S, math.inf
        elif now >= self._raise_at or self._raise_at == math.inf:
            self._raise_at = now + self._raise_s
            self._raise_s = min(2 * self._raise_s, RAISE_MAX_S)
