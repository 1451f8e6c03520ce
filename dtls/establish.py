"""From options to a session with keys: dial, TLS, log in, CONNECT, DTLS handshake. Blocking, but never for ever."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import sys
import time
from dataclasses import dataclass

from qosctl.bpf.dscp import DF
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.anyconnect import Login
from qosctl.dtls.channel import RECORD_BYTES_MAX, Channel, ConnectionLostError
from qosctl.dtls.credentials import CookieLogin, Credentials
from qosctl.dtls.dial import dial
from qosctl.dtls.gateway import Gateway
from qosctl.dtls.handshake import PSK_BYTES, PSK_EXPORTER_LABEL, Finished, Handshake
from qosctl.dtls.https import Response, ResponseReader
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.session import LINK_MTU_MAX, TUNNEL_MTU_MIN, NoDtlsError, Session, connect_request, parse_session
from qosctl.dtls.stop import Stop, wait
from qosctl.dtls.tls import open_channel
from qosctl.dtls.udp import UdpSocket
from qosctl.dtls.uplink import Batch

DTLS_PATIENCE_S = 12.0
"""Four ClientHellos: at 0, 1, 3 and 7 s. Who has not answered by then has no UDP path to us."""

_LINUX_IP_MTU = 14
_LINUX_IPV6_MTU = 24


@dataclass(frozen=True, repr=False)
class Established:
    """A session whose two channels are up. `early_stream` and `early_datagrams` came before anyone could read them."""

    channel: Channel
    udp: UdpSocket
    session: Session
    finished: Finished
    early_stream: bytes
    early_datagrams: list[bytes]


def establish(options: ConnectOptions, stop: Stop, cleanup: contextlib.ExitStack) -> Established:
    """Connect to the server and agree on keys; what has to be closed one day is pushed to `cleanup`.

    RefusedError, NotAttachedError and UsageError say in one line what is wrong; StopRequestedError when asked to stop.
    """
    gateway = Gateway.parse(options.url)
    tcp = dial(gateway, time.monotonic() + options.timeout_s, stop)
    channel = open_channel(tcp, gateway, options.trust, time.monotonic() + options.timeout_s, stop)
    cleanup.callback(channel.close)
    http = _Http(channel, gateway, options.timeout_s, stop)
    cookie = _log_in(http, gateway, options.credentials)
    request = connect_request(gateway, cookie, socket.gethostname(), path_mtu(channel))
    response = http.exchange(request, expect_body=False)
    session = parse_session(response, gateway)
    _, address = channel.peer
    outer = ipaddress.ip_address(address.partition("%")[0])
    for interface in session.addresses:
        if outer in interface.network:
            raise RefusedError(f"{gateway}: the tunnel's network {interface.network} holds the server itself")
    udp = UdpSocket.connect((address, session.dtls_port))
    cleanup.callback(udp.close)
    psk = channel.export(PSK_EXPORTER_LABEL, PSK_BYTES)
    deadline = time.monotonic() + min(options.timeout_s, DTLS_PATIENCE_S)
    finished, early = _shake_hands(Handshake(psk, session.app_id), udp, deadline, stop, gateway)
    return Established(channel, udp, session, finished, http.rest, early)


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
            if not data and not wait(self._stop, self._channel.fileno(), events, deadline):
                raise ConnectionLostError(f"{self._gateway}: the server does not answer")
            self._channel.flush()


def _log_in(http: _Http, gateway: Gateway, credentials: Credentials) -> CookieLogin:
    if isinstance(credentials, CookieLogin):
        return credentials
    login = Login(gateway, credentials)
    request: bytes | None = login.first_request()
    while request is not None:
        request = login.answer(http.exchange(request))
    return CookieLogin(login.cookie)


def _shake_hands(
    handshake: Handshake, udp: UdpSocket, deadline: float, stop: Stop, gateway: Gateway
) -> tuple[Finished, list[bytes]]:
    """Drive the handshake; return what it left, and datagrams that came right behind it.

    All flights leave from one port: the server ignores a second ClientHello from another one for some seconds.
    """
    while handshake.finished is None:
        now = time.monotonic()
        if now >= deadline:
            raise NoDtlsError(str(gateway))
        for datagram in handshake.datagrams_to_send():
            udp.send(Batch(memoryview(datagram), len(datagram), 1, DF, number=0))
        wait(stop, udp.fileno(), select.POLLIN, min(deadline, handshake.next_timeout(now) or deadline))
        received = [bytes(datagram) for datagram in udp.receive()]
        while received and handshake.finished is None:
            handshake.feed(received.pop(0))
    return handshake.finished, received


def path_mtu(channel: Channel) -> int:
    """Return the MTU towards the server in bytes, from the route and from what TCP learnt of the path."""
    family, _ = channel.peer
    if family == socket.AF_INET:
        header, route = 20, channel.socket_option(socket.IPPROTO_IP, _LINUX_IP_MTU)
    else:
        header, route = 40, channel.socket_option(socket.IPPROTO_IPV6, _LINUX_IPV6_MTU)
    segment = channel.socket_option(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    options = channel.socket_option(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    timestamps = 12 if options & 1 else 0
    route_mtu, segment_bytes = (int.from_bytes(value, sys.byteorder) for value in (route, segment))
    return max(TUNNEL_MTU_MIN, min(route_mtu, segment_bytes + timestamps + 20 + header, LINK_MTU_MAX))
