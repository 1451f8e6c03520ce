"""What the carrier remembers of a path that was too small for DTLS, over real sockets."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface

import pytest
from OpenSSL import SSL
from qosctl.dtls.carrier import Carrier
from qosctl.dtls.channel import Channel
from qosctl.dtls.entry import FlowEntry
from qosctl.dtls.establish import Opened
from qosctl.dtls.handshake import Finished
from qosctl.dtls.keys import Cipher, RecordKeys
from qosctl.dtls.link import Link
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.parts import PLAIN
from qosctl.dtls.session import Session, Timers
from qosctl.dtls.tally import Tally
from qosctl.dtls.udp import UdpSocket

NEVER = Timers(0, 0)
ADDRESSES = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
SESSION = Session(ADDRESSES, 1434, 1500, NEVER, NEVER, 4443, bytes(32), "a test")
KEYS = RecordKeys(Cipher.AES_128_GCM, bytes(16), bytes(4), bytes(16), bytes(4))


class Stage:
    """A carrier whose DTLS server says nothing by itself."""

    def __init__(self, stack: ExitStack, path_mtu: int = 1500) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        self._server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._server.bind(("127.0.0.1", 0))
        self._poll = stack.enter_context(select.epoll())
        self.why: list[str] = []
        channel = Channel(near, SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD)), "a test")
        self.carrier = Carrier(
            opened=Opened(channel, SESSION, bytes(32), b"", path_mtu),
            numbering=PlainNumbering,
            entry=FlowEntry(None, ""),
            tally=Tally(),
            poll=self._poll,
            parts=PLAIN,
            changed=lambda _state, why: self.why.append(why),
            now=0.0,
        )
        stack.callback(lambda: self.carrier.close(0.0, goodbye=False))

    def link(self, now: float) -> Link:
        """Let a handshake have finished."""
        udp = UdpSocket.connect(self._server.getsockname())
        self._poll.register(udp.fileno(), select.EPOLLIN)
        self.carrier.link = Link(
            udp=udp,
            finished=Finished("PSK-AES128-GCM-SHA256", KEYS, 1 << 48 | 2),
            numbering=PlainNumbering(1 << 48 | 2),
            entry=FlowEntry(None, ""),
            session=SESSION,
            outer=ip_address("127.0.0.1"),
            tally=Tally(),
            parts=PLAIN,
            now=now,
        )
        return self.carrier.link


@pytest.fixture
def small() -> Iterator[Stage]:
    """A path that takes 1300 bytes, with IPv6 inside."""
    with ExitStack() as stack:
        made = Stage(stack, 1300)
        made.carrier.tend(0.0)
        assert made.carrier.attempt is None
        made.carrier.take_over()
        assert made.why == ["the path is too small for IPv6 over UDP"]
        yield made


def test_a_path_is_small_until_its_largest_packet_has_passed_again(small: Stage) -> None:
    carrier, link = small.carrier, small.link(3600.0)
    carrier.tend(3600.0)
    assert carrier.too_small  # small ones, such as a handshake's, prove nothing
    link.path.echoed((1).to_bytes(8) + bytes(SESSION.mtu - 8), 3600.1)
    carrier.tend(3600.2)
    assert not carrier.too_small


def test_only_news_of_another_way_bring_the_next_attempt_forward(small: Stage) -> None:
    carrier = small.carrier
    carrier.doubt(10.0, moved=False)
    carrier.tend(10.0)
    assert carrier.attempt is None
    carrier.doubt(20.0, moved=True)
    carrier.tend(20.0)
    assert carrier.attempt is not None
    assert not carrier.too_small


def test_dtls_is_tried_at_once_on_a_path_with_room_for_ipv6() -> None:
    with ExitStack() as stack:
        carrier = Stage(stack, 1346).carrier
        carrier.tend(0.0)
        assert carrier.attempt is not None
