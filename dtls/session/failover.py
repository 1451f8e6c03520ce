"""Which channel carries the packets: DTLS where it can be had, else TLS, with DTLS tried again and again.

              finished                          lost
    attempt ---------> channel (DTLS carries) -------> attempt (TLS carries) ---+
       ^                                                                       | nothing came of it
       +-----------------------------------------------------------------------+

Each attempt has a port of its own, and costs the server, the path's NAT and its firewalls an entry. So they become rare
while nothing comes of them: at once after the first, then 1, 2, 4 ... up to 60 s after the last (openconnect: 60 s always),
each shortened by chance. An outage of ten seconds is over within two of its end, one of an hour within a minute. Only a
channel that has lived for some seconds makes the next attempts quick again; neither what anybody can send does, nor a
server that closes what it has opened. News of the network bring an attempt forward, within bounds.

Keys are renewed while the channel lives: an attempt beside it, from another port and with randoms of its own. When that has
finished, packets leave by the new channel; what is on its way over the old one is received for a while, by us and by the
server, which keeps the last channel open (ocserv has two places for them).

Sockets that are to be waited for are in the epoll object it is given.
"""

from __future__ import annotations

import math
import random
import select
from collections.abc import Callable

from qosctl.bpf.errors import RefusedError
from qosctl.dtls.numbering.plain import Numbering
from qosctl.dtls.session.dtls_attempt import ATTEMPT_S, DtlsAttempt
from qosctl.dtls.session.dtls_channel import DtlsChannel, DtlsLostError
from qosctl.dtls.session.factories import Factories
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.key_lifetime import KEY_LIFE, KeyLife
from qosctl.dtls.session.reconnect import Backoff, Hurry
from qosctl.dtls.session.session_stats import SessionCounters, State
from qosctl.dtls.session.setup import Opened

RING_PATIENCE_S = 1.0
"""How long a finished handshake waits for its ring, so that the first record is marked: as long as packets wait anyway."""
_RING_LOOK_S = 0.002
_EARLY_MAX = 1024
"""Datagrams that may wait for it, too."""
LIVED_S = 5.0
"""A channel that has lived for so long has been one."""
FIRST_WAIT_S, WAIT_MAX_S = 1.0, 60.0
_HURRIES, _HURRY_AGAIN_S = 3, 60.0
RETIRED_S = 10.0
"""How long a channel that was replaced is listened to: longer than any queue that packets live through."""
_RENEW_FIRST_WAIT_S, _RENEW_WAIT_MAX_S = 30.0, 600.0
_LOOK_S = 1.0
"""How often to look whether keys are worn."""
_NO_ROUTE_S = 1.0
"""Until the next attempt where the kernel knows no way, which costs nobody anything."""
_SMALL_PATH_S = 3600.0
"""The same where the path has no room for packets that IPv6 must be able to send: finding that out again costs some."""


class Failover:
    """The DTLS side of one session. `dtls` is None while TLS carries."""

    def __init__(  # noqa: PLR0913  (the parts it joins)
        self,
        *,
        opened: Opened,
        numbering: Callable[[int], Numbering],
        entry: FlowEntry,
        counters: SessionCounters,
        poll: select.epoll,
        factories: Factories,
        changed: Callable[[State, str], None],
        now: float,
        key_life: KeyLife = KEY_LIFE,
    ) -> None:
        """`changed` is told what carries the packets from now on, and why the last channel does not any more."""
        self._opened = opened
        self._numbering = numbering
        self._entry = entry
        self._counters = counters
        self._poll = poll
        self._factories = factories
        self._changed = changed
        self._key_life = key_life
        self.dtls: DtlsChannel | None = None
        self.attempt: DtlsAttempt | None = None
        self.retired: DtlsChannel | None = None
        """The channel before, as long as something may come over it."""
        self._retired_until = math.inf
        self.early: list[bytes] = []
        """Datagrams that came right behind the handshake of the channel; whoever reads them empties it."""
        self.too_small = opened.too_small
        """Whether the path takes too little for DTLS to carry IPv6; until it takes more, or is another."""
        self._next_attempt = now + (_SMALL_PATH_S if self.too_small else 0)
        if opened.session.no_dtls:
            self._next_attempt = math.inf
        self._backoff = Backoff(random.random, FIRST_WAIT_S)
        self._renewals = Backoff(random.random, _RENEW_FIRST_WAIT_S)
        self._hurry = Hurry(_HURRIES, _HURRY_AGAIN_S)
        self._began = self._dtls_since = -math.inf
        self._ring_by: float | None = None

    def tend(self, now: float) -> float:
        """Do what is due; return when to be called again."""
        return min(self._entry.tend(now), self._tend(now))

    def _tend(self, now: float) -> float:
        if now >= self._retired_until:
            self._let_go(now)
        if self.dtls is not None:
            if self.dtls.path.whole:
                self.too_small = False
            try:
                due = self.dtls.tend(now)
            except DtlsLostError as error:
                self.lose(str(error), now)
            else:
                return min(due, self._renew(self.dtls, now), self._retired_until)
        if self.attempt is None and now >= self._next_attempt:
            self._begin(now)
        return self._next_attempt if self.attempt is None else self.go_on(now)

    def go_on(self, now: float) -> float:
        """Let the attempt read and send what is due; return when to be called again."""
        attempt = self.attempt
        if attempt is None:
            return now
        if not attempt.step(now):
            self._drop_attempt()
            if self.dtls is None:
                self._schedule(now)
            else:
                self._next_attempt = now + self._renewals.next_wait(_RENEW_WAIT_MAX_S)
        elif attempt.finished is not None:
            return self._register(attempt, now)
        else:
            return attempt.next_time(now)
        return now

    def _renew(self, dtls: DtlsChannel, now: float) -> float:
        """See to new keys when those of the channel are worn; return when to look again."""
        if self.attempt is not None:
            return self.go_on(now)
        if now < self._next_attempt:
            return self._next_attempt
        if dtls.worn(self._key_life, now):
            self._begin(now)
        return now + _LOOK_S

    def take_over(self) -> None:
        """Let TLS carry: nobody wants to wait for DTLS any longer."""
        if self._ring_by is None:  # else the entry is a new channel's already
            self._entry.move(self._opened.channel.fileno())
        small = "the path is too small for IPv6 over UDP" if self.too_small else "no answer over UDP"
        self._changed(State.TLS, self._opened.session.no_dtls or small)

    def lost(self, dtls: DtlsChannel, why: str, now: float) -> None:
        """The server has closed a channel."""
        if dtls is self.retired:
            self._let_go(now)
        elif dtls is self.dtls:
            self.lose(why, now)

    def lose(self, why: str, now: float) -> None:
        """Give the channel up, let TLS carry, and try anew."""
        assert self.dtls is not None
        dtls, self.dtls = self.dtls, None
        self._poll.unregister(dtls.udp.fileno())
        dtls.close(now, tell_server=False)
        self._counters.dtls_lost += 1
        if self._ring_by is None:  # else the entry is a new channel's already
            self._entry.move(self._opened.channel.fileno())
        if now >= self._dtls_since + LIVED_S:
            self._backoff.reset()
        self._schedule(now)
        self._changed(State.TLS, why)

    def doubt(self, now: float, *, moved: bool) -> None:
        """The network has changed: ask whether the channel lives, or try again from a new socket.

        `moved`: the path may be another. On the same one, what was too small for DTLS stays so.
        """
        if moved:
            self.too_small = False
        if self.dtls is not None:
            self.dtls.life.doubt(now)
        elif self.attempt is None and not self.too_small and not self._opened.session.no_dtls:
            self._next_attempt = self._hurry.sooner(now, self._next_attempt)

    def close(self, now: float, *, tell_server: bool) -> None:
        """Close what is open; the poll object may be closed before."""
        if self.attempt is not None:
            self.attempt.close()
            self.attempt = None
        if self.dtls is not None:
            self.dtls.close(now, tell_server=tell_server)
            self.dtls = None
        if self.retired is not None:
            self.retired.close(now, tell_server=False)
            self.retired = None

    def _let_go(self, now: float) -> None:
        """Listen to the last channel no longer. No close_notify: the server would take it for the session's."""
        if self.retired is not None:
            self._poll.unregister(self.retired.udp.fileno())
            self.retired.close(now, tell_server=False)
        self.retired, self._retired_until = None, math.inf

    def _schedule(self, now: float) -> None:
        """Say when the next attempt is due: never before the server hears another port, which is when one has run out."""
        self._next_attempt = max(self._began + ATTEMPT_S, now + self._backoff.next_wait(WAIT_MAX_S))

    def _begin(self, now: float) -> None:
        try:
            opened = self._opened
            self.attempt = DtlsAttempt(opened.dtls_remote, opened.dtls_key, now, opened.sockets)
        except RefusedError:  # no way to the server, or no socket yet: as good as no answer
            self._next_attempt = now + _NO_ROUTE_S
            return
        self._began = now
        self._poll.register(self.attempt.udp.fileno(), select.EPOLLIN)

    def _drop_attempt(self) -> None:
        assert self.attempt is not None
        self._poll.unregister(self.attempt.udp.fileno())
        self.attempt.close()
        if self._ring_by is not None and self.dtls is not None:  # the entry was the attempt's already
            self._entry.move(self.dtls.udp.fileno())
        self.attempt = self._ring_by = None

    def _register(self, attempt: DtlsAttempt, now: float) -> float:
        """Use the finished attempt as soon as its flow has a ring, or that takes too long; return when to look again."""
        if self._ring_by is None:
            self._entry.move(attempt.udp.fileno())
            self._ring_by = now + RING_PATIENCE_S
        patient = now < self._ring_by and len(attempt.early) < _EARLY_MAX
        if patient and self._entry.waiting and self._entry.memory is None:
            return now + _RING_LOOK_S
        self._ring_by = None
        self._use(attempt, now)
        return now

    def _use(self, attempt: DtlsAttempt, now: float) -> None:
        """Make the finished attempt the channel; its socket is watched already."""
        finished = attempt.finished
        assert finished is not None
        session, before = self._opened.session, self.dtls
        self.dtls = DtlsChannel(
            udp=attempt.udp,
            finished=finished,
            numbering=self._numbering(finished.first_number),
            entry=self._entry,
            protocol=self._opened.protocol,
            session=session,
            outer=self._opened.outer,
            counters=self._counters,
            factories=self._factories,
            now=now,
            path=None if before is None or before.suite != finished.suite else before.path,
        )
        self.attempt = None
        self._dtls_since = self._next_attempt = now
        self.early += attempt.early
        if before is None:
            self._changed(State.DTLS, "")
            return
        self._let_go(now)
        before.retire(now)
        self.retired, self._retired_until = before, now + RETIRED_S
        self._renewals.reset()
        self._counters.count_control("dtls keys renewed")
        self._changed(State.DTLS, "new keys")
