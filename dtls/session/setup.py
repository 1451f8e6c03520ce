"""From an address to a session: dial, TLS, log in, CONNECT. Blocking, but never for ever."""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from qosctl.bpf.errors import LoginRefusedError, NoRoomError, NotAttachedError, RefusedError
from qosctl.dtls.ip_sizes import IPV6_MTU_MIN
from qosctl.dtls.record import openssl
from qosctl.dtls.record.handshake import PreSharedKey
from qosctl.dtls.session.base_mtu import base_for, device_mtu, fitting
from qosctl.dtls.transport.addressing import Endpoint
from qosctl.dtls.transport.certificate_check import Trust
from qosctl.dtls.transport.dial import Address, dial
from qosctl.dtls.transport.outer_sockets import PLAIN_SOCKETS, OuterSockets
from qosctl.dtls.transport.stop import Stop, wait
from qosctl.dtls.transport.tls import open_channel
from qosctl.dtls.transport.tls_channel import RECORD_BYTES_MAX, ConnectionLostError, TlsChannel
from qosctl.dtls.vpn.account import Account
from qosctl.dtls.vpn.credentials import CookieLogin
from qosctl.dtls.vpn.errors import CookieRefusedError, PasswordUnansweredError
from qosctl.dtls.vpn.http import Response, ResponseReader
from qosctl.dtls.vpn.protocol import VpnProtocol
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import RECORD_OVERHEAD, Session, outer_headers


@dataclass(frozen=True, repr=False)
class Opened:
    """A session over TLS. `dtls_key` is for its DTLS handshakes; `early` came before anyone could read it.

    `path_mtu` is what the path takes, in bytes, as far as is known before any probe; `sockets` makes those of its DTLS.
    """

    channel: TlsChannel
    protocol: VpnProtocol
    session: Session
    dtls_key: PreSharedKey
    early: bytes
    path_mtu: int
    sockets: OuterSockets = PLAIN_SOCKETS

    @property
    def outer(self) -> IPv4Address | IPv6Address:
        """The server's address."""
        return ipaddress.ip_address(self.channel.remote[0].partition("%")[0])

    @property
    def too_small(self) -> bool:
        """Whether the path has no room for IPv6 within a record, although the session has it: TLS fits every path."""
        return self.session.has_ipv6 and self.path_mtu - outer_headers(self.outer, RECORD_OVERHEAD) < IPV6_MTU_MIN

    @property
    def address(self) -> Address:
        """Where the TLS side of the server is."""
        return self.channel.peer[0], self.channel.remote

    @property
    def dtls_remote(self) -> Endpoint:
        """Where the DTLS side of the server is."""
        return self.channel.remote[0], self.session.dtls_port


def open_session(  # noqa: PLR0913  (whom to ask, as whom, and within what bounds)
    protocol: VpnProtocol,
    gateway: Gateway,
    trust: Trust,
    account: Account,
    *,
    timeout_s: float,
    mtu_max: int,
    stop: Stop,
    known: Address | None = None,
    ipv6: bool = True,
    sockets: OuterSockets = PLAIN_SOCKETS,
) -> Opened:
    """Connect to the server, log in where `account` has no cookie, and ask for the tunnel. The channel is the caller's.

    RefusedError (CookieRefusedError, LoginError, NoRoomError), NotAttachedError and UsageError say in one line what is
    wrong; StopRequestedError when asked to stop. Each step takes `timeout_s` at most; `mtu_max` is what is known of the
    path, `known` where the server was the last time. With `ipv6` the tunnel may have more than the path takes, for IPv6's
    sake.
    """
    openssl.require()
    tcp = dial(gateway, time.monotonic() + timeout_s, stop, known, mtu_max=mtu_max, sockets=sockets)
    channel = open_channel(tcp, gateway, trust, time.monotonic() + timeout_s, stop)
    try:
        http = _Http(channel, gateway, timeout_s, stop)
        cookie = _log_in(protocol, http, gateway, account)
        outer = ipaddress.ip_address(channel.remote[0].partition("%")[0])
        device = device_mtu(channel.remote[0])
        fits = min(fitting(channel, device), mtu_max)
        base = base_for(fits, device, outer, ipv6=ipv6)
        request = protocol.session_request(gateway, cookie, socket.gethostname(), base)
        session = _session(protocol, http.exchange(request, expect_body=False), gateway, account)
        for interface in session.addresses:
            if outer in interface.network:
                raise RefusedError(  # noqa: TRY301  (one way out closes the channel)
                    f"{gateway}: the tunnel's network {interface.network} holds the server itself"
                )
        if base <= fits or session.has_ipv6:
            return Opened(channel, protocol, session, protocol.dtls_key(channel.export, session), http.rest, fits, sockets)
    except BaseException:
        channel.close()
        raise
    channel.close()  # asked for too much, and for nothing
    return open_session(
        protocol,
        gateway,
        trust,
        account,
        timeout_s=timeout_s,
        mtu_max=mtu_max,
        stop=stop,
        known=known,
        ipv6=False,
        sockets=sockets,
    )


class _Http:
    """One request after another on a channel."""

    def __init__(self, channel: TlsChannel, gateway: Gateway, timeout_s: float, stop: Stop) -> None:
        self._channel = channel
        self._gateway = gateway
        self._timeout_s = timeout_s
        self._stop = stop
        self.rest = b""

    def exchange(self, request: bytes, *, expect_body: bool = True) -> Response:
        """Send a request, return the response. ConnectionLostError when none comes in time."""
        deadline = time.monotonic() + self._timeout_s
        for start in range(0, len(request), RECORD_BYTES_MAX):
            self._channel.send(request[start : start + RECORD_BYTES_MAX])
        reader = ResponseReader(expect_body=expect_body)
        while True:
            data = self._channel.receive()
            response = reader.feed(data) if data else None
            if response is not None:
                self.rest = reader.rest
                return response
            events = select.POLLIN | (select.POLLOUT if self._channel.unsent else 0)
            if not wait(self._stop, self._channel.fileno(), events, deadline):
                raise ConnectionLostError(f"{self._gateway}: the server does not answer")
            self._channel.flush()


def _log_in(protocol: VpnProtocol, http: _Http, gateway: Gateway, account: Account) -> CookieLogin:
    credentials = account.needs
    if isinstance(credentials, CookieLogin):
        return credentials
    login = protocol.log_in(gateway, credentials)
    request: bytes | None = login.first_request()
    try:
        while request is not None:
            request = login.answer(http.exchange(request))
    except LoginRefusedError:
        raise
    except (RefusedError, NotAttachedError) as error:
        if not login.password_sent:
            raise
        said = f"{error.message}; whether the password is right, it has not said"
        raise PasswordUnansweredError(said, error.hint) from error
    cookie = CookieLogin(login.cookie)
    account.remember(cookie, time.monotonic())
    return cookie


def _session(protocol: VpnProtocol, response: Response, gateway: Gateway, account: Account) -> Session:
    """Read the session, or why there is none. A cookie of a moment ago is not refused for being unknown."""
    try:
        session = protocol.parse_session(response, gateway)
    except CookieRefusedError:
        if not account.fresh(time.monotonic()):
            raise
        raise NoRoomError(
            f"{gateway}: the server takes the login and gives no session: it may have too many of this user, no address"
            " left, or a script of its own that failed",
            "again later, or its operator",
        ) from None
    account.accepted()
    return session
