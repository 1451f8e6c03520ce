"""What the client's caller is told: that the tunnel is up, what becomes of it, and what was counted.

What happens again and again is told ever more seldom, and then how often it has happened; INFO has it each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from qosctl.bpf.errors import InternalError, NoRoomError, QosctlError
from qosctl.dtls.backoff import KeyedBackoff
from qosctl.dtls.events import Say, Severity
from qosctl.dtls.options import ConnectedInfo
from qosctl.dtls.session.failover import Failover
from qosctl.dtls.session.reconnect import SETTLED_S, Reason
from qosctl.dtls.session.session_stats import SessionCounters, State, Statistics
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.transport.certificate_check import UntrustedError
from qosctl.dtls.transport.dial import CircleError
from qosctl.dtls.tunnel_device import Device

STILL_S = 10.0
"""An outage that has lasted for so long is told of with its reason, even where it is a usual one."""
_UNUSUAL = (UntrustedError, NoRoomError, InternalError, CircleError)
"""What is told at once: somebody else may be answering, or no waiting of the usual kind will do."""


class Reporter:
    """Knows whom to tell, and in which words. Give it the session and the failover of the moment."""

    def __init__(
        self,
        counters: SessionCounters,
        device: Device,
        *,
        on_connected: Callable[[ConnectedInfo], None],
        on_statistics: Callable[[Statistics], None] | None,
        on_event: Say,
    ) -> None:
        """The last three are those of `connect`."""
        self._counters = counters
        self._device = device
        self._on_connected = on_connected
        self._on_statistics = on_statistics
        self.say = on_event
        """Takes any other line for people."""
        self._failover: Failover | None = None
        self._tls_suite = ""
        self._outage_began = time.monotonic()
        self._disproved = 0
        self._events = KeyedBackoff(free=3, first_s=30.0, longest_s=480.0, calm_s=600.0)
        self._failures = KeyedBackoff(free=1, first_s=60.0, longest_s=3600.0, calm_s=7200.0)
        self._untold: dict[str, int] = {}
        self.announced = False
        """Whether the caller knows that the tunnel is up."""

    @property
    def wants_reports(self) -> bool:
        """Whether statistics are for anybody."""
        return self._on_statistics is not None

    def follow(self, opened: Opened, failover: Failover) -> None:
        """There is a session, whose packets `failover` carries."""
        self._failover = failover
        self._tls_suite = opened.channel.suite
        session = opened.session
        keys = f"new keys every {session.rekey_s} s" if session.rekey_s else "no new keys"
        self.say(
            Severity.INFO,
            f"session with {opened.channel.remote[0]}: {opened.channel.description}, dead peers found after "
            f"{session.tls.dpd} s over TLS and {session.dtls.dpd} s over DTLS, {keys}, path MTU {session.base_mtu}",
        )

    def changed(self, opened: Opened, state: State, why: str) -> None:
        """The packets have another channel, or one again; `why` the last one does not carry them any more."""
        before = self._counters.state
        self._counters.enter(state, time.time())
        if not self.announced:
            self._announce(opened, state)
        elif before is State.RECONNECTING:
            outage_s = time.monotonic() - self._outage_began
            self._event("again", Severity.NOTICE, f"connected again over {state.name} after {outage_s:.1f} s")
        elif state is State.DTLS and before is State.DTLS:
            self.say(Severity.INFO, f"{why} for DTLS")
        elif state is State.DTLS:
            self._event("dtls", Severity.NOTICE, "packets go over DTLS again")
        if state is State.TLS:
            until = "" if opened.session.no_dtls else ", until DTLS works"
            self._event("tls", Severity.WARNING, f"{why}: packets go over TLS, unmarked{until}")
        self.report()

    def lost(self, error: QosctlError, reason: Reason, *, lived_s: float, pause: float, now: float) -> None:
        """The session has ended with `error` after `lived_s`, and another one is looked for in `pause` seconds."""
        self._outage_began = now
        if lived_s >= SETTLED_S:
            self._failures.forget_all()
        self._counters.reconnects[reason] = self._counters.reconnects.get(reason, 0) + 1
        self._counters.enter(State.RECONNECTING, time.time())
        severity = Severity.NOTICE if reason is Reason.REKEY else Severity.WARNING
        words = str(error) if isinstance(error, InternalError) else error.message
        self._event(reason.value, severity, f"{words}: connecting again{_in(pause)}")
        self._show_where(error)
        self.report()

    def failed(self, failure: QosctlError, pause: float, now: float) -> None:
        """An attempt to get a session came to nothing; the next one is due in `pause` seconds.

        Told once in each outage, and ever more seldom while it lasts: what is unusual at once, the rest when the outage
        has lasted for STILL_S.
        """
        unusual = isinstance(failure, _UNUSUAL)
        line = f"{failure if unusual else failure.message}: trying again{_in(pause) or ' at once'}"
        kind = type(failure).__name__
        lasts = now >= self._outage_began + STILL_S
        if (unusual or lasts) and now >= self._failures.due(kind, now):
            self._failures.tried(kind, now)
            since = f"no session for {now - self._outage_began:.0f} s: " if lasts else ""
            self.say(Severity.WARNING, since + line)
        else:
            self.say(Severity.INFO, line)
        self._show_where(failure)

    def _event(self, what: str, severity: Severity, line: str) -> None:
        now = time.monotonic()
        if now < self._events.due(what, now):
            self._untold[what] = self._untold.get(what, 0) + 1
            self.say(Severity.INFO, line)
            return
        self._events.tried(what, now)
        untold = self._untold.pop(what, 0)
        self.say(severity, f"{line} (and {untold} times before, untold)" if untold else line)

    def _show_where(self, error: QosctlError) -> None:
        """Show where a fault of ours came from, to those who look on."""
        if isinstance(error, InternalError) and error.__cause__ is not None:
            from traceback import format_exception  # noqa: PLC0415 - for what should not happen

            for line in "".join(format_exception(error.__cause__)).splitlines():
                self.say(Severity.DEBUG, line)

    def report(self) -> None:
        """Hand the statistics over."""
        if self._on_statistics is not None:
            statistics = self.statistics()
            self._on_statistics(statistics)
            self._tell_of_numbers(statistics)

    def _tell_of_numbers(self, statistics: Statistics) -> None:
        """Say it when overtaking cost, or would have cost, what it should not: numbers are plain for a while then."""
        disproved = 0 if statistics.numbering is None else statistics.numbering.disproved
        if disproved > self._disproved:
            self.say(
                Severity.NOTICE, "records change places on the way: their numbers are plain for a while, at bulk's expense"
            )
        self._disproved = disproved

    def statistics(self) -> Statistics:
        """What was counted so far."""
        dtls = None if self._failover is None else self._failover.dtls
        tun = self._device.tun
        return self._counters.snapshot(
            None if dtls is None else dtls.opener,
            None if dtls is None else dtls.udp,
            suite="" if dtls is None else dtls.suite,
            tls_suite=self._tls_suite,
            mtu=0 if tun is None else tun.mtu,
            tun_refused=0 if tun is None else tun.write_lost,
            numbering=None if dtls is None or dtls.prober is None else dtls.prober.snapshot(time.monotonic()),
        )

    def _announce(self, opened: Opened, state: State) -> None:
        self.announced = True
        dtls = None if self._failover is None else self._failover.dtls
        tun = self._device.tun
        assert tun is not None
        self._on_connected(
            ConnectedInfo(
                tunnel=tun.name,
                addresses=tun.addresses,
                mtu=tun.mtu,
                local=opened.channel.local if dtls is None else dtls.udp.local,
                remote=opened.channel.remote if dtls is None else dtls.udp.remote,
                tls=opened.channel.description,
                dtls="" if dtls is None else dtls.suite,
                server=opened.session.server,
                marked=state is State.DTLS and self._device.entry.memory is not None,
                statistics=self.statistics,
            )
        )


def _in(pause: float) -> str:
    return f" in {pause:.1f} s" if pause else ""
