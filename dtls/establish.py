"""From an address to a session: dial, TLS, log in, CONNECT. Blocking, but never for ever."""

from __future__ import annotations

import ipaddress
import select
import socket
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from qosctl.bpf.errors import RefusedError
from qosctl.dtls import openssl
from qosctl.dtls.account import Account
from qosctl.dtls.anyconnect import Login
from qosctl.dtls.channel import RECORD_BYTES_MAX, Channel, ConnectionLostError
from qosctl.dtls.credentials import CookieLogin
from qosctl.dtls.dial import Address, dial
from qosctl.dtls.gateway import Gateway
from qosctl.dtls.handshake import PSK_BYTES, PSK_EXPORTER_LABEL
from qosctl.dtls.https import Response, ResponseReader
from qosctl.dtls.marker import Endpoint
from qosctl.dtls.session import LINK_MTU_MAX, TUNNEL_MTU_MIN, Session, connect_request, parse_session
from qosctl.dtls.stop import Stop, wait
from qosctl.dtls.tls import open_channel
from qosctl.dtls.trust import Trust

_LINUX_IP_MTU = 14
_LINUX_IPV6_MTU = 24


@dataclass(frozen=True, repr=False)
class Opened:
    """A session over TLS. `psk` is the key for its DTLS handshakes; `early` came before anyone could read it."""

    channel: Channel
    session: Session
    psk: bytes
    early: bytes

    @property
    def outer(self) -> IPv4Address | IPv6Address:
        """The server's address."""
        return ipaddress.ip_address(self.channel.remote[0].partition("%")[0])

    @property
    def address(self) -> Address:
        """Where the TLS side of the server is."""
        return self.channel.peer[0], self.channel.remote

    @property
    def dtls_remote(self) -> Endpoint:
        """Where the DTLS side of the server is."""
        return self.channel.remote[0], self.session.dtls_port


def open_session(  # noqa: PLR0913  (whom to ask, as whom, and within what bounds)
    gateway: Gateway,
    trust: Trust,
    account: Account,
    *,
    timeout_s: float,
    mtu_max: int,
    stop: Stop,
    known: Address | None = None,
) -> Opened:
    """Connect to the server, log in where `account` has no cookie, and ask for the tunnel. The channel is the caller's.

    RefusedError (CookieRefusedError, LoginError), NotAttachedError and UsageError say in one line what is wrong;
    StopRequestedError when asked to stop. Each step takes `timeout_s` at most; `mtu_max` is what is known of the path,
    `known` where the server was the last time.
    """
    openssl.require()
    tcp = dial(gateway, time.monotonic() + timeout_s, stop, known)
    channel = open_channel(tcp, gateway, trust, time.monotonic() + timeout_s, stop)
    try:
        http = _Http(channel, gateway, timeout_s, stop)
        cookie = _log_in(http, gateway, account)
        request = connect_request(gateway, cookie, socket.gethostname(), min(path_mtu(channel), mtu_max))
        session = parse_session(http.exchange(request, expect_body=False), gateway)
        outer = ipaddress.ip_address(channel.remote[0].partition("%")[0])
        for interface in session.addresses:
            if outer in interface.network:
                raise RefusedError(  # noqa: TRY301  (one way out closes the channel)
                    f"{gateway}: the tunnel's network {interface.network} holds the server itself"
                )
        return Opened(channel, session, channel.export(PSK_EXPORTER_LABEL, PSK_BYTES), http.rest)
    except BaseException:
        channel.close()
        raise


class _Http:
    """One request after another on a channel."""

    def __init__(self, channel: Channel, gateway: Gateway, timeout_s: float, stop: Stop) -> None:
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


def _log_in(http: _Http, gateway: Gateway, account: Account) -> CookieLogin:
    credentials = account.needs
    if isinstance(credentials, CookieLogin):
        return credentials
    login = Login(gateway, credentials)
    request: bytes | None = login.first_request()
    while request is not None:
        request = login.answer(http.exchange(request))
    cookie = CookieLogin(login.cookie)
    account.remember(cookie)
    return cookie


def path_mtu(channel: Channel) -> int:
    """Return the MTU towards the server in bytes, from the route and from what TCP learnt of the path."""
    family, _ = channel.peer
    header, level, option = (20, socket.IPPROTO_IP, _LINUX_IP_MTU)
    if family == socket.AF_INET6:
        header, level, option = (40, socket.IPPROTO_IPV6, _LINUX_IPV6_MTU)
    try:
        route = channel.socket_option(level, option)
    except OSError:  # ENOTCONN: the route has just changed, and the next packet finds the new one
        route = LINK_MTU_MAX.to_bytes(4, sys.byteorder)
    segment = channel.socket_option(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    options = channel.socket_option(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    timestamps = 12 if options & 1 else 0
    route_mtu, segment_bytes = (int.from_bytes(value, sys.byteorder) for value in (route, segment))
    return max(TUNNEL_MTU_MIN, min(route_mtu, segment_bytes + timestamps + 20 + header, LINK_MTU_MAX))
