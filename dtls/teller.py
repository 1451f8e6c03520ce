"""What the client's caller is told: that the tunnel is up, what becomes of it, and what was counted."""

from __future__ import annotations

import time
from collections.abc import Callable

from qosctl.bpf.errors import QosctlError
from qosctl.dtls.carrier import Carrier
from qosctl.dtls.device import Device
from qosctl.dtls.establish import Opened
from qosctl.dtls.events import Say, Severity
from qosctl.dtls.options import ConnectedInfo
from qosctl.dtls.reconnect import Reason
from qosctl.dtls.tally import State, Statistics, Tally


class Teller:
    """Knows whom to tell, and in which words. Give it the session and the carrier of the moment."""

    def __init__(
        self,
        tally: Tally,
        device: Device,
        *,
        on_connected: Callable[[ConnectedInfo], None],
        on_statistics: Callable[[Statistics], None] | None,
        on_event: Say,
    ) -> None:
        """The last three are those of `connect`."""
        self._tally = tally
        self._device = device
        self._on_connected = on_connected
        self._on_statistics = on_statistics
        self.say = on_event
        """Takes any other line for people."""
        self._carrier: Carrier | None = None
        self._tls_suite = ""
        self._outage_began = 0.0
        self.announced = False
        """Whether the caller knows that the tunnel is up."""

    @property
    def wants_reports(self) -> bool:
        """Whether statistics are for anybody."""
        return self._on_statistics is not None

    def follow(self, opened: Opened, carrier: Carrier) -> None:
        """There is a session, whose packets `carrier` carries."""
        self._carrier = carrier
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
        before = self._tally.state
        self._tally.enter(state, time.time())
        if not self.announced:
            self._announce(opened, state)
        elif before is State.RECONNECTING:
            outage_s = time.monotonic() - self._outage_began
            self.say(Severity.NOTICE, f"connected again over {state.name} after {outage_s:.1f} s")
        elif state is State.DTLS:
            self.say(Severity.NOTICE, "packets go over DTLS again")
        if state is State.TLS:
            self.say(Severity.WARNING, f"{why}: packets go over TLS, unmarked, until DTLS works")
        self.report()

    def lost(self, error: QosctlError, reason: Reason, now: float) -> None:
        """The session has ended with `error`, and another one is looked for."""
        self._outage_began = now
        self._tally.reconnects[reason] = self._tally.reconnects.get(reason, 0) + 1
        self._tally.enter(State.RECONNECTING, time.time())
        planned = reason is Reason.REKEY
        self.say(Severity.NOTICE if planned else Severity.WARNING, f"{error.message}: connecting again")
        self.report()

    def failed(self, failure: QosctlError, pause: float) -> None:
        """An attempt to get a session came to nothing; the next one is due in `pause` seconds."""
        self.say(Severity.INFO, f"{failure.message}: trying again {f'in {pause:.1f} s' if pause else 'at once'}")

    def report(self) -> None:
        """Hand the statistics over."""
        if self._on_statistics is not None:
            self._on_statistics(self.statistics())

    def statistics(self) -> Statistics:
        """What was counted so far."""
        link = None if self._carrier is None else self._carrier.link
        tun = self._device.tun
        return self._tally.snapshot(
            None if link is None else link.opener,
            None if link is None else link.udp,
            suite="" if link is None else link.suite,
            tls_suite=self._tls_suite,
            mtu=0 if tun is None else tun.mtu,
            tun_refused=0 if tun is None else tun.write_lost,
            numbering=None if link is None or link.prober is None else link.prober.snapshot(time.monotonic()),
        )

    def _announce(self, opened: Opened, state: State) -> None:
        self.announced = True
        link = None if self._carrier is None else self._carrier.link
        tun = self._device.tun
        assert tun is not None
        self._on_connected(
            ConnectedInfo(
                tunnel=tun.name,
                addresses=tun.addresses,
                mtu=tun.mtu,
                local=opened.channel.local if link is None else link.udp.local,
                remote=opened.channel.remote if link is None else link.udp.remote,
                tls=opened.channel.description,
                dtls="" if link is None else link.suite,
                server=opened.session.server,
                marked=state is State.DTLS and self._device.entry.memory is not None,
                statistics=self.statistics,
            )
        )
