"""What may end a session from outside of it: time that is up, an address that is not ours any more. Time comes in."""

from __future__ import annotations

import math

from qosctl.bpf.errors import NotAttachedError
from qosctl.dtls.session.failover import Failover
from qosctl.dtls.session.key_lifetime import KeyLife
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.transport.network_monitor import sources

SETTLE_S = 0.1
"""News of the network come in bursts: an address goes, a route goes, another comes."""
DOUBT_EVERY_S = 1.0
"""How often news that change nothing about our way to the server make the channels prove that they live."""
ANSWER_S = 1.5
"""How long the old address may take to prove that it still works when another one has become the better one."""


class AddressChangedError(NotAttachedError):
    """Packets to the server leave from another address now."""


class RekeyDueError(NotAttachedError):
    """The server wants another session, with new keys; or we do, where TLS has carried for long."""


class PathShrunkError(NotAttachedError):
    """The path takes smaller packets than the server knows: what it sends would be lost. Probes have shown it."""

    def __init__(self, what: str, mtu: int) -> None:
        super().__init__(f"{what}: the path takes packets of {mtu} bytes now")
        self.mtu = mtu


class SessionMonitor:
    """Looks after one session from outside. Call `tend` when due, `news` and `woke` when something has happened."""

    def __init__(  # noqa: PLR0913  (what it looks after)
        self, name: str, opened: Opened, control: TlsControl, failover: Failover, *, key_life: KeyLife, now: float
    ) -> None:
        """`name` is what to call the server in an error."""
        self._key_life = key_life
        session = opened.session
        self._name = name
        self._channel = opened.channel
        self._control = control
        self._failover = failover
        self._rekey_at = now + session.rekey_s if session.rekey_s else math.inf
        self._look_at = self._judge_at = math.inf
        self._doubted = -math.inf
        self._seen: tuple[bool, str | None] = (True, opened.channel.local[0])

    def news(self, now: float) -> None:
        """Something about links, addresses or routes has changed."""
        self._look_at = min(self._look_at, now + SETTLE_S)

    def woke(self, now: float) -> None:
        """Time has jumped: whatever was alive before may have been dead for long."""
        self._control.life.doubt(now)
        self._failover.doubt(now, moved=True)
        self.news(now)

    def tend(self, now: float) -> float:
        """Do what is due; return when to be called again. AddressChangedError and the like when the session is over."""
        if now >= self._rekey_at or self._channel.records >= self._key_life.records:
            raise RekeyDueError(f"{self._name}: time for new keys")
        dtls = self._failover.dtls
        if dtls is not None and dtls.path.shrunk:
            raise PathShrunkError(self._name, dtls.outer_mtu)
        if now >= self._look_at:
            self._look_at = math.inf
            self._look(now)
        if now >= self._judge_at:
            heard = max(self._control.life.last_rx, self._failover.dtls.life.last_rx if self._failover.dtls else -math.inf)
            judged, self._judge_at = self._judge_at, math.inf
            if heard < judged - ANSWER_S and not self._look(now):
                raise AddressChangedError(f"{self._name}: our address has changed")
        return min(self._rekey_at, self._look_at, self._judge_at)

    def _look(self, now: float) -> bool:
        """Look which address leads to the server; returns whether it is still the one in use."""
        local, remote = self._channel.local, self._channel.remote
        works, best = seen = sources(local, remote)
        moved, self._seen = seen != self._seen, seen
        if not works and best is not None:
            raise AddressChangedError(f"{self._name}: our address has changed")
        if works and not moved and now < self._doubted + DOUBT_EVERY_S:
            self._look_at = self._doubted + DOUBT_EVERY_S  # somebody makes links all day, and each costs two requests
        elif works:  # even if another is better now: what works stays, what is dead is found out soon
            self._doubted = now
            self._control.life.doubt(now)
            self._failover.doubt(now, moved=moved)
        if works and best != local[0]:
            self._judge_at = now + ANSWER_S
        return best == local[0]
