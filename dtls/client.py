"""The client: one call that connects, carries packets until it is told to stop, and leaves nothing behind.

    open --> TUN --> session ----- ends -----> recovery --> open again --+
                        ^                                               |
                        +-----------------------------------------------+

The TUN device outlives the sessions, and with it the connections of whoever uses it. What one session is made of is in
`loop`; what becomes of one that ended, in `reconnect`.
"""

from __future__ import annotations

import contextlib
import random
import select
import time
from collections.abc import Callable

from qosctl.bpf.errors import QosctlError
from qosctl.dtls.account import Account
from qosctl.dtls.carrier import Carrier
from qosctl.dtls.control import Control
from qosctl.dtls.dial import Address, UnreachableError
from qosctl.dtls.ending import ENDINGS, reason_of
from qosctl.dtls.entry import FlowEntry
from qosctl.dtls.establish import Opened, open_session
from qosctl.dtls.gateway import Gateway
from qosctl.dtls.loop import Loop
from qosctl.dtls.marker import Marker
from qosctl.dtls.netwatch import NetWatch, source_towards
from qosctl.dtls.options import ConnectedInfo, ConnectOptions
from qosctl.dtls.reconnect import Reason, Recovery
from qosctl.dtls.session import IPV6_MTU_MIN, LINK_MTU_MAX, RECORD_OVERHEAD, Interface
from qosctl.dtls.stop import Stop, StopRequestedError, wait
from qosctl.dtls.surroundings import Following, Surroundings
from qosctl.dtls.tally import State, Statistics, Tally
from qosctl.dtls.tun import Tun
from qosctl.dtls.watch import PathShrunkError, Watch

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
    surroundings: Surroundings | None = None,
    on_connected: Callable[[ConnectedInfo], None] = lambda _: None,
    on_statistics: Callable[[Statistics], None] | None = None,
    on_event: Callable[[str], None] = lambda _: None,
) -> Statistics:
    """Connect, and carry packets until `stop.request()` is called (from a signal handler, say) or nothing helps any more.

    `surroundings` gives the device its addresses, and the machine routes and names; without it the device gets the
    addresses and no more. `on_connected` is called once, when packets can pass; without a marker, or where it cannot
    mark, the tunnel works unmarked. `on_statistics` is called about once a second as long as there is traffic, and when
    the state changes; it must not block. `on_event` gets a line for people when the channel or the session changes.
    Returns what was counted after a stop, which the server is told of.

    UsageError for options that make no sense, RefusedError when the server or the kernel refuses, NotAttachedError
    when the server cannot be reached at first or ends the session on purpose, NoPermissionError without CAP_NET_ADMIN.
    However it ends, the tunnel device, the flow's entry and the sockets are gone.
    """
    with contextlib.ExitStack() as cleanup:
        client = _Client(
            options,
            stop,
            marker=marker,
            surroundings=surroundings,
            on_connected=on_connected,
            on_statistics=on_statistics,
            on_event=on_event,
            cleanup=cleanup,
        )
        with contextlib.suppress(StopRequestedError):
            client.run()
        return client.statistics()


class _Client:
    """What lives as long as the call."""

    def __init__(  # noqa: PLR0913  (the arguments of connect)
        self,
        options: ConnectOptions,
        stop: Stop,
        *,
        marker: Marker | None,
        surroundings: Surroundings | None,
        on_connected: Callable[[ConnectedInfo], None],
        on_statistics: Callable[[Statistics], None] | None,
        on_event: Callable[[str], None],
        cleanup: contextlib.ExitStack,
    ) -> None:
        self._options = options
        self._stop = stop
        self._marker = marker
        self._around = Following(surroundings, stop)
        self._on_connected = on_connected
        self._on_statistics = on_statistics
        self._on_event = on_event
        self._cleanup = cleanup
        self._gateway = Gateway.parse(options.url)
        self._account = Account(options.credentials)
        self._tally = Tally()
        self._tun: Tun | None = None
        self._entry = FlowEntry(None, "")
        self._carrier: Carrier | None = None
        self._announced = False
        self._path_mtu = LINK_MTU_MAX  # what the path takes, once it has shown that it takes less than it says
        self._outage_began = 0.0
        self._known: Address | None = None  # where the server was the last time
        self._tls_suite = ""

    def run(self) -> None:
        """Connect and stay; returns after the stop."""
        opened: Opened | None = self._open(self._options.timeout_s)
        while opened is not None:
            began = time.monotonic()
            try:
                self._carry(opened)
                return
            except ENDINGS as error:
                opened = self._recover(error, reason_of(error, opened.session, time.monotonic() - began))

    def statistics(self) -> Statistics:
        """What was counted so far."""
        link = None if self._carrier is None else self._carrier.link
        return self._tally.snapshot(
            None if link is None else link.opener,
            None if link is None else link.udp,
            suite="" if link is None else link.suite,
            tls_suite=self._tls_suite,
            mtu=0 if self._tun is None else self._tun.mtu,
            tun_refused=0 if self._tun is None else self._tun.write_lost,
            numbering=None if link is None or link.prober is None else link.prober.snapshot(time.monotonic()),
        )

    def _open(self, timeout_s: float) -> Opened:
        if self._known is not None and self._tun is not None:
            source = source_towards(self._known[1][0])
            if source in {str(address.ip) for address in self._tun.addresses}:
                raise UnreachableError(f"{self._gateway}: no way to the server but through its own tunnel", "ip route")
        opened = open_session(
            self._gateway,
            self._options.trust,
            self._account,
            timeout_s=timeout_s,
            mtu_max=self._path_mtu,
            stop=self._stop,
            known=self._known,
        )
        self._known = opened.address
        return opened

    def _carry(self, opened: Opened) -> None:
        """Carry packets through one session. Returns after the stop; raises what ended the session otherwise."""
        first = not self._announced
        self._tls_suite = opened.channel.suite
        with contextlib.ExitStack() as session:
            session.callback(opened.channel.close)
            tun = self._device(opened)
            poll = session.enter_context(select.epoll())
            now = time.monotonic()
            carrier = self._carrier = Carrier(
                opened=opened,
                numbering=self._options.numbering,
                entry=self._entry,
                tally=self._tally,
                poll=poll,
                changed=lambda state, why: self._changed(opened, state, why),
            )
            net = session.enter_context(contextlib.closing(NetWatch()))
            name = str(self._gateway)
            control = Control(name=name, channel=opened.channel, session=opened.session, tally=self._tally, now=now)
            watch = Watch(name, opened, control, carrier, now=now)
            loop = Loop(
                stop=self._stop,
                opened=opened,
                tun=tun,
                carrier=carrier,
                control=control,
                watch=watch,
                net=net,
                poll=poll,
                tally=self._tally,
                report=None if self._on_statistics is None else self._report,
            )
            goodbye = False
            try:
                loop.run(now + (FIRST_HOLD_S if first else HOLD_S))
                goodbye = True
            finally:
                carrier.close(time.monotonic(), goodbye=goodbye)
                if goodbye:
                    control.say_goodbye()

    def _device(self, opened: Opened) -> Tun:
        """Make the tunnel device, or give the one there is what the session says."""
        mtu = opened.session.tunnel_mtu(opened.outer, RECORD_OVERHEAD)
        addresses = tuple(each for each in opened.session.addresses if each.version == 4 or mtu >= IPV6_MTU_MIN)
        if self._tun is not None:
            self._tun.readdress(addresses)
            self._around.go_on(opened, self._tun)
            return self._tun
        self._cleanup.callback(self._around.close)
        self._around.prepare(opened, self._options.tunnel_name, mtu, addresses)
        self._tun = Tun.create(self._options.tunnel_name, mtu, addresses, assign=not self._around.assigns)
        self._cleanup.callback(self._tun.close)
        self._entry = FlowEntry(self._marker, self._tun.name)
        self._cleanup.callback(self._entry.close)
        self._cleanup.callback(self._around.close)  # while the device is there
        self._around.begin(opened, self._tun)
        return self._tun

    def _changed(self, opened: Opened, state: State, why: str) -> None:
        """The packets have another channel, or one again."""
        before = self._tally.state
        self._tally.enter(state, time.time())
        if not self._announced:
            self._announce(opened, state)
        elif before is State.RECONNECTING:
            self._on_event(f"connected again over {state.name} after {time.monotonic() - self._outage_began:.1f} s")
        elif state is State.DTLS:
            self._on_event("packets go over DTLS again")
        if state is State.TLS:
            self._on_event(f"{why}: packets go over TLS, unmarked, until DTLS works")
        self._report()

    def _announce(self, opened: Opened, state: State) -> None:
        self._announced = True
        link = None if self._carrier is None else self._carrier.link
        assert self._tun is not None
        self._on_connected(
            ConnectedInfo(
                tunnel=self._tun.name,
                addresses=self._addresses,
                mtu=self._tun.mtu,
                local=opened.channel.local if link is None else link.udp.local,
                remote=opened.channel.remote if link is None else link.udp.remote,
                tls=opened.channel.description,
                dtls="" if link is None else link.suite,
                server=opened.session.server,
                marked=state is State.DTLS and self._entry.marks,
                statistics=self.statistics,
            )
        )

    @property
    def _addresses(self) -> tuple[Interface, ...]:
        return () if self._tun is None else self._tun.addresses

    def _report(self) -> None:
        if self._on_statistics is not None:
            self._on_statistics(self.statistics())

    def _recover(self, error: QosctlError, reason: Reason) -> Opened | None:
        """Get a session again, whatever it takes and for as long as is allowed; None after a stop."""
        now = self._outage_began = time.monotonic()
        if not self._options.reconnect_s or not self._announced:
            raise error
        if isinstance(error, PathShrunkError):
            self._path_mtu = error.mtu
        elif reason is not Reason.REKEY:
            self._path_mtu = LINK_MTU_MAX  # it may be another path
        self._tally.reconnects[reason] = self._tally.reconnects.get(reason, 0) + 1
        self._tally.enter(State.RECONNECTING, time.time())
        self._on_event(f"{error.message}: connecting again")
        self._report()
        recovery = Recovery(
            reason,
            error,
            can_log_in=self._account.can_log_in,
            patience_s=self._options.reconnect_s,
            random=random.random,
            now=now,
        )
        with contextlib.closing(NetWatch()) as net:
            while True:
                if recovery.log_in:
                    self._account.forget_cookie()
                self._around.attempt()
                try:
                    return self._open(min(self._options.timeout_s, RETRY_TIMEOUT_S))
                except QosctlError as failure:
                    now = time.monotonic()
                    pause = recovery.after(failure, now)
                if pause and wait(self._stop, net.fileno(), select.POLLIN, now + pause):
                    net.drain()
                    recovery.backoff.reset()
