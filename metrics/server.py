"""The HTTP endpoint: prometheus-client's WSGI app behind waitress, one process, a few threads.

waitress reads requests in one loop and wakes a thread only for a complete one, so idle and dribbling connections cost a
descriptor each and delay nobody. What is added here: there is always room for one more connection, and none lives long.
"""

from __future__ import annotations

import errno
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from qosctl.bpf.errors import NoPermissionError, QosctlError, RefusedError
from qosctl.bpf.printable import one_line
from qosctl.metrics.hosts import is_addressed_to
from qosctl.metrics.listen import Listen
from waitress import wasyncore
from waitress.server import TcpWSGIServer

PATH = "/metrics"
CONNECTIONS_MAX = 256  # a quarter of the usual limit of descriptors
CONNECTION_SECONDS = 30  # a scrape takes milliseconds; Prometheus simply connects again
_THREADS = 2
_REQUEST_BYTES_MAX = 16384
_COMPLAINT_MAX = 400
_BACKLOG = 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_COMPLAINT_S = 60.0
"""How often something may be said of what requests do to the libraries: anybody may send as many as he likes."""


class _Seldom(logging.Filter):
    """Makes one line of what waitress logs, which has a traceback for each request that it cannot read, and of few."""

    def __init__(self) -> None:
        super().__init__()
        self._next = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the first in _COMPLAINT_S through."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _COMPLAINT_S
        error = record.exc_info[1] if record.exc_info else None
        first, *_ = record.getMessage().splitlines()
        record.msg = one_line(f"qosctl: metrics: {first}" + (f": {error!r}" if error is not None else ""))[:_COMPLAINT_MAX]
        record.args, record.exc_info = (), None
        return True


class _Stop(SystemExit):
    """Raised by a signal; waitress lets its threads finish and returns."""


class Endpoint:
    """A listening endpoint for `registry`. It accepts from the start; `run` answers. Close it, or use it in a `with`.

    RefusedError where the address is taken or not this machine's, NoPermissionError for a privileged port.
    """

    def __init__(
        self, registry: CollectorRegistry, listen: Listen, *, connection_seconds: int = CONNECTION_SECONDS
    ) -> None:
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # two scrapes at a time are nothing to warn of
        log = logging.getLogger("waitress")
        if not any(isinstance(each, _Seldom) for each in log.filters):
            log.addFilter(_Seldom())
        self._channels: dict[int, Any] = {}
        sock = _listening_socket(listen)
        self.url = f"http://{Listen(listen.address, sock.getsockname()[1])}{PATH}"
        self._server = _Server(
            _only_ours(_only_metrics(make_wsgi_app(registry)), listen.names),
            map=self._channels,
            _sock=sock,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            sockets=[sock],
            threads=_THREADS,
            backlog=_BACKLOG,
            connection_limit=2 * CONNECTIONS_MAX,
            channel_timeout=connection_seconds,
            cleanup_interval=1,
            max_request_header_size=_REQUEST_BYTES_MAX,
            max_request_body_size=_REQUEST_BYTES_MAX,
            asyncore_use_poll=True,  # select(2) knows no descriptor beyond 1023
            log_socket_errors=False,
            ident="qosctl",
        )

    def run(self) -> None:
        """Answer until SIGINT or SIGTERM. Call it from the main thread."""
        with suppress(_Stop), _signals_stop():
            self._server.run()

    def stop(self) -> None:
        """Make `run` return, from whatever thread."""
        self._server.stopping = True
        self._server.pull_trigger()

    def close(self) -> None:
        """Let go of the address and of every connection."""
        self._server.task_dispatcher.shutdown()
        wasyncore.close_all(self._channels)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress's server, which stops accepting when it has many connections; ours drops the one that waits longest."""

    stopping = False

    def readable(self) -> bool:
        """Asked for in each round of the loop, which this ends."""
        if self.stopping:
            raise _Stop
        return bool(super().readable())

    def handle_accept(self) -> None:
        super().handle_accept()
        if len(self.active_channels) > CONNECTIONS_MAX:
            waiting = (channel for channel in self.active_channels.values() if not channel.requests)
            longest = next(waiting, None)  # in the order they came
            if longest is not None:
                longest.handle_close()

    def maintenance(self, now: float) -> None:
        """Close connections by age and not by silence: a client that sends a byte a second is not silent."""
        for channel in self.active_channels.values():
            if not channel.requests and channel.creation_time < now - self.adj.channel_timeout:
                channel.will_close = True


@contextmanager
def _signals_stop() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut the stopping short
        raise _Stop

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _only_ours(served: WSGIApplication, names: frozenset[str]) -> WSGIApplication:
    """Answer what is addressed to us, and no page that pretends to be us (hosts.py)."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is None or is_addressed_to(host, names):  # no browser leaves it out
            return served(environ, start_response)
        text = f"{one_line(host)}: not a name of ours; see --host-name, or names in [metrics]\n"
        return _say(start_response, "421 Misdirected Request", text)

    return application


def _only_metrics(metrics: WSGIApplication) -> WSGIApplication:
    """Answer PATH, point there from /, and nothing else: the app itself would answer a scrape on every path."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == PATH:
            return metrics(environ, start_response)
        status, text = ("200 OK", f"qosctl: {PATH}\n") if path == "/" else ("404 Not Found", f"try {PATH}\n")
        return _say(start_response, status, text)

    return application


def _say(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


def _listening_socket(listen: Listen) -> socket.socket:
    with ExitStack() as stack:
        try:
            ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
                listen.address, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )
            sock = stack.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            raise _no_listening(listen, error) from error
        stack.pop_all()
        return sock


def _no_listening(listen: Listen, error: OSError) -> QosctlError:
    match error.errno:
        case errno.EADDRINUSE:
            return RefusedError(f"{listen}: something listens there already", f"ss -tlnp sport = :{listen.port}")
        case errno.EADDRNOTAVAIL:
            return RefusedError(f"{listen}: not an address of this machine", "ip address")
        case errno.EACCES:
            return NoPermissionError(f"{listen}: ports below 1024 are privileged", "a higher port")
        case _:
            return RefusedError(f"{listen}: cannot listen: {error.strerror or error}", "ip address")
