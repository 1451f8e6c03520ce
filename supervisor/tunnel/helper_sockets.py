"""What the client has of its helper for the sockets that carry the tunnel: they get their mark there (`outer_sockets`).

Between sessions the client waits for that. While packets pass it does not: for the next DTLS handshake one socket is marked
ahead of time, and where the helper has not come to it the handshake is tried later.
"""

from __future__ import annotations

import socket

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import netns
from qosctl.dtls.transport.outer_sockets import MARK, NoSocketError, PlainSockets
from qosctl.supervisor.tunnel.flow_marker import socket_of
from qosctl.supervisor.tunnel.helper_client import HelperClient

_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})
_KINDS = frozenset({socket.SOCK_STREAM, socket.SOCK_DGRAM})


class RemoteSockets:
    """Satisfies qosctl.dtls.transport.outer_sockets.OuterSockets.

    With `needed`, routes may lead into the tunnel that only marked packets are kept from: a socket without the mark is then
    worse than none. A helper that may not mark has set no such routes either.
    """

    def __init__(self, remote: HelperClient, *, needed: bool) -> None:
        self._remote = remote
        self._needed = needed
        self._plain = PlainSockets()
        self._spares: dict[int, tuple[socket.socket, int]] = {}

    def open(self, family: int, kind: int) -> socket.socket:
        """Return one that is marked."""
        try:
            if kind == socket.SOCK_DGRAM and family in self._spares:
                return self._spare(family)
            made = self._plain.open(family, kind)
            return self._judged(made, known=self._remote.ask_about("mark", made.fileno()) is not None)
        finally:
            self._provide(family)

    def close(self) -> None:
        """Give up the sockets that nobody took."""
        for made, _ in self._spares.values():
            made.close()
        self._spares.clear()

    def _spare(self, family: int) -> socket.socket:
        made, number = self._spares[family]
        known = self._remote.answer_to(number) is not None
        if not known and not self._remote.gone:
            raise RefusedError("the helper has not come to it yet")
        del self._spares[family]
        return self._judged(made, known=known)

    def _judged(self, made: socket.socket, *, known: bool) -> socket.socket:
        if known or not self._needed:
            return made
        made.close()
        if self._remote.gone:
            raise NoSocketError("the helper is gone, and without it the tunnel cannot connect again", "connect anew")
        raise RefusedError("the helper does not answer")

    def _provide(self, family: int) -> None:
        """Have a socket marked for the next handshake, if there is none."""
        if family in self._spares or self._remote.gone:
            return
        try:
            made = self._plain.open(family, socket.SOCK_DGRAM)
        except OSError:  # it is not needed yet
            return
        number = self._remote.tell("mark", [made.fileno()])
        if number:
            self._spares[family] = made, number
        else:
            made.close()


def mark(shown: int) -> None:
    """Mark a socket by its descriptor, which stays the caller's. ValueError for one that carries no tunnel, OSError."""
    with socket_of(shown) as made:
        if made.family not in _FAMILIES or made.type not in _KINDS:
            raise ValueError("a socket that carries no tunnel")
        if netns.cookie_of(made) != netns.cookie():
            raise ValueError("a socket of another network namespace")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
