"""The client: one call that connects, carries packets until it is told to stop, and leaves nothing behind.

    open --> TUN --> session ----- ends -----> recovery --> open again --+
                        ^                                               |
                        +-----------------------------------------------+

The TUN device outlives the sessions (`tunnel_device`), and with it the connections of whoever uses it. What one session is
made of is in `loop`; what becomes of one that ended, in `reconnect`; what the caller is told, in `reporter`.
"""

from __future__ import annotations

import contextlib
import random
import select
import time
from collections.abc import Callable

from qosctl.bpf.errors import InternalError, NoRoomError, QosctlError, ShortageError
from qosctl.dtls.events import Say, Severity
from qosctl.dtls.host_config import HostConfigurator
from qosctl.dtls.options import ConnectedInfo, ConnectOptions
from qosctl.dtls.reporter import Reporter
from qosctl.dtls.session.end_reasons import ENDINGS, reason_of
from qosctl.dtls.session.factories import PLAIN, Factories
from qosctl.dtls.session.failover import Failover
from qosctl.dtls.session.loop import Loop
from qosctl.dtls.session.marker import Marker
from qosctl.dtls.session.monitor import PathShrunkError, SessionMonitor
from qosctl.dtls.session.reconnect import Hurry, Reason, Recovery
from qosctl.dtls.session.session_parts import SessionParts
from qosctl.dtls.session.session_stats import SessionCounters, State, Statistics
from qosctl.dtls.session.setup import Opened, open_session
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.transport.dial import CircleError, address_of
from qosctl.dtls.transport.netdev import DeviceKeeper, check_name
from qosctl.dtls.transport.network_monitor import NetworkMonitor, source_towards
from qosctl.dtls.transport.outer_sockets import PLAIN_SOCKETS, OuterSockets
from qosctl.dtls.transport.stop import Stop, StopRequestedError, wait
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.tunnel_device import Device
from qosctl.dtls.vpn.account import Account
from qosctl.dtls.vpn.errors import PasswordUnansweredError
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import LINK_MTU_MAX

FIRST_HOLD_S = 3.0
"""How long packets wait for DTLS when the tunnel is new; then they go over TLS, and DTLS takes over when it can."""
HOLD_S = 1.0
"""The same when it is not new: somebody has waited already."""
RETRY_TIMEOUT_S = 6.0
"""Bound of each step of a reconnect. A step that waits for longer is not worth waiting for while the network changes."""


def connect(  # noqa: PLR0913  (what to do, and whom to tell)
    options: ConnectOptions,
    stop: Stop,
    *,
    marker: Marker | None = None,
    configurator: HostConfigurator | None = None,
    keeper: DeviceKeeper | None = None,
    sockets: OuterSockets = PLAIN_SOCKETS,
    on_connected: Callable[[ConnectedInfo], None] = lambda _: None,
    on_statistics: Callable[[Statistics], None] | None = None,
    on_event: Say = lambda _severity, _line: None,
    factories: Factories = PLAIN,
) -> Statistics:
    """Connect, and carry packets until `stop.request()` is called (from a signal handler, say) or nothing helps any more.

    `configurator` gives the device its addresses, and the machine routes and DNS; without it the device gets the
    addresses and no more. `keeper` makes the device and changes it in place of this process, which then needs no privilege;
    `sockets` makes those whose packets stay outside, where routes into the tunnel lead to its own server, too.
    `on_connected` is called once, when packets can pass; without a marker, or where it cannot mark, the tunnel works
    unmarked. `on_statistics` is called about once a second as long as there is traffic, and when
    the state changes; it must not block. `on_event` gets a line for people when the channel or the session changes.
    `factories` may be packet_log.traced(...), which tells of each packet. Returns what was counted after a stop, which the
    server is told of.

    UsageError for options that make no sense, RefusedError when the server or the kernel refuses (LoginRefusedError,
    NoRoomError), NotAttachedError when the server cannot be reached at first or ends the session on purpose
    (DismissedError), NoPermissionError without CAP_NET_ADMIN. What nobody expected costs a session or an attempt, is told
    of, and is tried again; InternalError only where there was no session yet.
    However it ends, the tunnel device, the flow's entry and the sockets are gone.
    """
    check_name(options.tunnel_name)  # before anybody logs in for it
    with (
        contextlib.closing(NetworkMonitor()) as net,
        contextlib.closing(Device(options.tunnel_name, marker, configurator, keeper, stop)) as device,
    ):
        counters = SessionCounters()
        reporter = Reporter(counters, device, on_connected=on_connected, on_statistics=on_statistics, on_event=on_event)
        with contextlib.suppress(StopRequestedError):
            client = _Client(
                options,
                stop,
                device=device,
                counters=counters,
                reporter=reporter,
                factories=factories,
                net=net,
                sockets=sockets,
            )
            client.run()
        return reporter.statistics()


class _Client:
    """What lives as long as the call."""

    def __init__(  # noqa: PLR0913  (what the call has made)
        self,
        options: ConnectOptions,
        stop: Stop,
        *,
        device: Device,
        counters: SessionCounters,
        reporter: Reporter,
        factories: Factories,
        net: NetworkMonitor,
        sockets: OuterSockets,
    ) -> None:
        self._options = options
        self._stop = stop
        self._device = device
        self._counters = counters
        self._reporter = reporter
        self._factories = factories
        self._net = net
        self._sockets = sockets
        self._gateway = Gateway.parse(options.url)
        self._account = Account(options.credentials)
        self._path_mtu = LINK_MTU_MAX  # what the path takes, once it has shown that it takes less than its device
        self._too_small = False  # whether the last session ended on a path that was known to have no room for IPv6
        # Where the server was the last time.
        self._known = None if options.known is None else address_of(options.known, self._gateway.port)
        self._over_tls = False  # whether the last session ended without DTLS
        self._hold_s = FIRST_HOLD_S  # for how long the next one's packets wait for it
        self._recovery = Recovery(can_log_in=self._account.can_log_in, patience_s=options.reconnect_s, random=random.random)
        self._hurry = Hurry()

    def run(self) -> None:
        """Connect and stay; returns after the stop."""
        opened = self._first()
        while True:
            began = time.monotonic()
            try:
                self._carry(opened)
                return
            except StopRequestedError:
                raise
            except Exception as unexpected:
                error = _ours(unexpected)
                if not isinstance(error, ENDINGS):
                    raise
            lived_s = time.monotonic() - began
            opened = self._recover(error, reason_of(error, opened.session, lived_s), lived_s)

    def _first(self) -> Opened:
        """Return the first session. What hinders it is the caller's to hear, but for a full server, which is waited for."""
        try:
            return self._open(self._options.timeout_s)
        except NoRoomError as full:
            if not self._options.reconnect_s:
                raise
            now = time.monotonic()
            self._recovery.first(now)
            self._wait_after(full, now)
            return self._try_until_open(self._options.timeout_s)

    def _open(self, timeout_s: float) -> Opened:
        tun = self._device.tun
        if self._known is not None and tun is not None:
            source = source_towards(self._known[1][0])
            if source in {str(address.ip) for address in tun.addresses}:
                raise CircleError(f"{self._gateway}: no way to the server but through its own tunnel", "ip route")
        opened = open_session(
            self._options.protocol,
            self._gateway,
            self._options.trust,
            self._account,
            timeout_s=timeout_s,
            mtu_max=self._path_mtu,
            stop=self._stop,
            known=self._known,
            sockets=self._sockets,
        )
        self._known = opened.address
        return opened

    def _carry(self, opened: Opened) -> None:
        """Carry packets through one session. Returns after the stop; raises what ended the session otherwise."""
        with contextlib.ExitStack() as session:
            session.callback(opened.channel.close)
            had_ipv6 = self._device.carries_ipv6
            tun = self._device.serve(opened)
            if had_ipv6 and not self._device.carries_ipv6:
                why = "the server gives no address for it"
                self._reporter.say(Severity.WARNING, f"the tunnel carries no IPv6 any more: {why}")
            now = time.monotonic()
            parts = self._assemble(opened, tun, session.enter_context(select.epoll()), now)
            self._reporter.follow(opened, parts.failover)
            failover = parts.failover
            asked = False  # whether the end is ours
            try:
                Loop(parts).run(now + (0.0 if opened.too_small or opened.session.no_dtls else self._hold_s))
                asked = True
            finally:
                if opened.too_small and not failover.too_small:
                    self._path_mtu = LINK_MTU_MAX
                self._too_small = failover.too_small
                self._over_tls = failover.dtls is None
                failover.close(time.monotonic(), tell_server=asked)
                if asked:
                    parts.control.send_disconnect()

    def _assemble(self, opened: Opened, tun: Tun, poll: select.epoll, now: float) -> SessionParts:
        """Make what carries packets through this session. `failover` is to be closed."""
        name, counters, factories, key_life = str(self._gateway), self._counters, self._factories, self._options.key_life
        control = factories.control(
            name=name,
            channel=opened.channel,
            protocol=opened.protocol,
            session=opened.session,
            addresses=tun.addresses,
            counters=counters,
            now=now,
        )
        failover = Failover(
            opened=opened,
            numbering=self._options.numbering,
            entry=self._device.entry,
            counters=counters,
            poll=poll,
            factories=factories,
            changed=lambda state, why: self._changed(opened, control, state, why),
            now=now,
            key_life=key_life,
        )
        return SessionParts(
            stop=self._stop,
            net=self._net,
            tun=tun,
            poll=poll,
            counters=counters,
            opened=opened,
            decoder=factories.decoder(opened.protocol),
            control=control,
            failover=failover,
            monitor=SessionMonitor(name, opened, control, failover, key_life=key_life, now=now),
            report=self._reporter.report if self._reporter.wants_reports else None,
        )

    def _changed(self, opened: Opened, control: TlsControl, state: State, why: str) -> None:
        """The packets have another channel, or one again."""
        if state is State.DTLS:
            control.wakeup.stop()
        elif self._counters.state is State.DTLS:  # the server may not know yet
            control.wakeup.begin(time.monotonic())
        self._reporter.changed(opened, state, why)

    def _recover(self, error: QosctlError, reason: Reason, lived_s: float) -> Opened:
        """Return another session, whatever it takes and for as long as is allowed."""
        now = time.monotonic()
        if not self._options.reconnect_s or not self._reporter.announced:
            raise error
        if isinstance(error, PathShrunkError):
            self._path_mtu = error.mtu
        elif reason is not Reason.REKEY and not self._too_small:
            self._path_mtu = LINK_MTU_MAX  # it may be another path
        # New keys change nothing about a path that lets no UDP through.
        self._hold_s = 0.0 if reason is Reason.REKEY and self._over_tls else HOLD_S
        pause = self._recovery.lost(reason, error, lived_s=lived_s, now=now)
        self._reporter.lost(error, reason, lived_s=lived_s, pause=pause, now=now)
        self._pause(now, pause)
        return self._try_until_open(min(self._options.timeout_s, RETRY_TIMEOUT_S))

    def _try_until_open(self, timeout_s: float) -> Opened:
        while True:
            try:
                if self._recovery.must_log_in():
                    self._account.forget_cookie()
                self._device.attempt()
                return self._open(timeout_s)
            except StopRequestedError:
                raise
            except Exception as unexpected:  # an attempt that failed, whatever it failed of
                failure = _ours(unexpected)
            self._wait_after(failure, time.monotonic())

    def _wait_after(self, failure: QosctlError, now: float) -> None:
        pause = self._recovery.after(failure, now)
        self._reporter.failed(failure, pause, now)
        self._pause(now, pause, hurried=not isinstance(failure, PasswordUnansweredError))

    def _pause(self, now: float, pause: float, *, hurried: bool = True) -> None:
        """Wait; news of the network bring the end forward, within bounds, where the wait may be `hurried`."""
        until = now + pause
        if not hurried:
            wait(self._stop, self._stop.fileno(), select.POLLIN, until)
            return
        self._net.drain()
        if pause and wait(self._stop, self._net.fileno(), select.POLLIN, until):
            self._net.drain()
            wait(self._stop, self._stop.fileno(), select.POLLIN, self._hurry.sooner(time.monotonic(), until))


def _ours(error: Exception) -> QosctlError:
    """Return the error as one of the family: another attempt may do better, whatever it was."""
    if isinstance(error, QosctlError):
        return error
    return ShortageError.of("the system refused", error) if isinstance(error, OSError) else InternalError.of(error)
