"""From a host name to a connected TCP socket: both address families side by side, never for ever."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from qosctl.bpf.errors import NotAttachedError
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_HEADER_BYTES
from qosctl.dtls.transport.outer_sockets import PLAIN_SOCKETS, OuterSockets
from qosctl.dtls.transport.stop import Stop, StopRequestedError, wait
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import LINK_MTU_MAX

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

STAGGER_S = 0.25
"""Between one address and the next (RFC 8305 section 5)."""
RESOLVE_AGAIN_S = 1.0
"""How long to wait for the resolver where an address is known: its name servers may be beyond the tunnel that is down."""
ADDRESSES_MAX = 8
"""More than anyone announces; the rest would only stretch the wait."""


class UnreachableError(NotAttachedError):
    """No TCP connection to the server came about."""


class CircleError(UnreachableError):
    """The machine's routes lead to the server through its own tunnel: no waiting mends that, a route does."""


def dial(  # noqa: PLR0913  (whom to reach, by what, and within what bounds)
    gateway: Gateway,
    deadline: float,
    stop: Stop,
    known: Address | None = None,
    *,
    mtu_max: int = LINK_MTU_MAX,
    sockets: OuterSockets = PLAIN_SOCKETS,
) -> socket.socket:
    """Return a connected, non-blocking TCP socket to the server.

    Addresses are tried in the resolver's order, families in turn, each STAGGER_S after the one before or as soon as
    that fails; the first that answers is taken (RFC 8305). `deadline` is of time.monotonic(); `known` is where the
    server was the last time: first of all while the name still leads there, else the last resort. Segments fit packets of
    `mtu_max` bytes, both ways: a path that has shown that it swallows larger ones need not tell TCP. UnreachableError
    tells what the last one said; StopRequestedError when asked to stop; NoSocketError where `sockets` has none any more.
    """
    failure: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    left = _candidates(gateway, deadline, stop, known)
    trying: dict[int, socket.socket] = {}
    poll = select.epoll()
    try:
        poll.register(stop.fileno(), select.EPOLLIN)
        now = time.monotonic()
        next_start = now
        while (left or trying) and now < deadline:
            if left and (now >= next_start or not trying):
                next_start = now + STAGGER_S
                try:
                    begun = _begin(left.pop(0), mtu_max, sockets)
                except OSError as error:
                    failure = error
                    continue
                trying[begun.fileno()] = begun
                poll.register(begun.fileno(), select.EPOLLOUT)
            wake = min(deadline, next_start) if left else deadline
            # Rounded up: a wait that ends a little early would be a busy one.
            for descriptor, _ in poll.poll(max(0.0, wake - now) + 0.001):
                if stop.requested:
                    raise StopRequestedError
                poll.unregister(descriptor)
                answered = trying.pop(descriptor)
                code = answered.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    # A keepalive or a disconnect must not wait for the acknowledgement of the one before.
                    answered.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return answered
                answered.close()
                failure = OSError(code, os.strerror(code))
                next_start = now
            now = time.monotonic()
    finally:
        poll.close()
        for each in trying.values():
            each.close()
    raise UnreachableError(f"{gateway}: {_words(failure)}", _hint(failure, gateway))


def address_of(host: str, port: int) -> Address:
    """Return a port of a numeric address as a socket takes it."""
    return (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port))


def _candidates(gateway: Gateway, deadline: float, stop: Stop, known: Address | None) -> list[Address]:
    """Return where to try, in order."""
    if known is None:
        return alternating(_resolve(gateway, deadline, stop))
    try:
        found = alternating(_resolve(gateway, min(deadline, time.monotonic() + RESOLVE_AGAIN_S), stop))
    except UnreachableError:
        return [known]
    others = [address for address in found if address[1][:2] != known[1][:2]]
    return [known, *others] if len(others) < len(found) else [*others, known]


def _resolve(gateway: Gateway, deadline: float, stop: Stop) -> Sequence[Address]:
    """Ask the resolver in a thread of its own, because it knows neither deadline nor stop."""
    found: list[Address] = []
    failures: list[OSError] = []
    done = os.eventfd(0, os.EFD_CLOEXEC)
    alive = threading.Lock()

    def ask() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(gateway.host, gateway.port, type=socket.SOCK_STREAM):
                if family in {socket.AF_INET, socket.AF_INET6}:
                    found.append((family, address))  # type: ignore[arg-type]  # those two families have these forms
        except (OSError, UnicodeError) as error:
            failures.append(error if isinstance(error, OSError) else OSError(str(error)))
        with alive:
            if not abandoned:
                os.eventfd_write(done, 1)

    abandoned: list[bool] = []
    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        in_time = wait(stop, done, select.POLLIN, deadline)
    finally:
        with alive:
            abandoned.append(True)
        os.close(done)
    if not in_time:
        raise UnreachableError(f"{gateway.host}: the name was not resolved in time", f"getent ahosts {gateway.host}")
    if failures or not found:
        words = failures[0].strerror if failures else "no address"
        raise UnreachableError(f"{gateway.host}: {words}", f"getent ahosts {gateway.host}")
    return found[:ADDRESSES_MAX]


def alternating(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with families in turn, beginning with the resolver's first: a dead family costs one turn."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    pairs = itertools.zip_longest(first, other)
    return [address for pair in pairs for address in pair if address is not None]


def _begin(address: Address, mtu_max: int, sockets: OuterSockets) -> socket.socket:
    """Return a socket that is connecting; OSError where that fails at once."""
    family, where = address
    sock = sockets.open(family, socket.SOCK_STREAM)
    if mtu_max < LINK_MTU_MAX:
        headers = (IPV4_HEADER_BYTES if family == socket.AF_INET else IPV6_HEADER_BYTES) + TCP_HEADER_BYTES
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mtu_max - headers)
    code = sock.connect_ex(where)
    if code not in {0, errno.EINPROGRESS}:
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _hint(error: OSError, gateway: Gateway) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"another port, https://{gateway.host}:4443, or ask whether the server runs"
    if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return f"ip route get {gateway.host}"
    return f"ping {gateway.host}"
