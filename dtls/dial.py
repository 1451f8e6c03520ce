"""From a host name to a connected TCP socket: both address families, each address in turn, never for ever."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from qosctl.bpf.errors import NotAttachedError
from qosctl.dtls.gateway import Gateway
from qosctl.dtls.stop import Stop, wait

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

ADDRESSES_MAX = 8
"""More than anyone announces; the rest would only stretch the wait."""


class UnreachableError(NotAttachedError):
    """No TCP connection to the server came about."""


def dial(gateway: Gateway, deadline: float, stop: Stop) -> socket.socket:
    """Return a connected, non-blocking TCP socket to the server.

    Addresses are tried in the resolver's order; each gets an equal share of what is left until `deadline`
    (time.monotonic()). UnreachableError tells what the last one said; StopRequestedError when asked to stop.
    """
    addresses = _resolve(gateway, deadline, stop)
    failure: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    for index, address in enumerate(addresses):
        now = time.monotonic()
        share = now + max(0.0, deadline - now) / (len(addresses) - index)
        try:
            return _connect(address, share, stop)
        except OSError as error:
            failure = error
    raise UnreachableError(f"{gateway}: {_words(failure)}", _hint(failure, gateway))


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


def _connect(address: Address, deadline: float, stop: Stop) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        code = sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            if not wait(stop, sock.fileno(), select.POLLOUT, deadline):
                code = errno.ETIMEDOUT
            else:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))  # noqa: TRY301  (one way out closes the socket)
        # A keepalive or a goodbye must not wait for the acknowledgement of the one before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _hint(error: OSError, gateway: Gateway) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"another port, https://{gateway.host}:4443, or ask whether the server runs"
    if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return f"ip route get {gateway.host}"
    return f"ping {gateway.host}"
