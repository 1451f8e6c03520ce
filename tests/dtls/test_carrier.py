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
SESSION = Session((ip_interface("192.168.77.5/24"),), 1434, 1500, NEVER, NEVER, 4443, bytes(32), "a test")
KEYS = RecordKeys(Cipher.AES_128_GCM, bytes(16), bytes(4), bytes(16), bytes(4))


class Stage:
    """A carrier whose DTLS server says nothing by itself."""

    def __init__(self, stack: ExitStack) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        self._server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._server.bind(("127.0.0.1", 0))
        self._poll = stack.enter_context(select.epoll())
        channel = Channel(near, SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD)), "a test")
        self.carrier = Carrier(
            opened=Opened(channel, SESSION, bytes(32), b""),
            numbering=PlainNumbering,
            entry=FlowEntry(None, ""),
            tally=Tally(),
            poll=self._poll,
            parts=PLAIN,
            changed=lambda _state, _why: None,
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
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


def given_up(stage: Stage) -> Carrier:
    """A carrier that has found the path to take 1300 bytes."""
    link = stage.link(0.0)
    link.path.size -= link.outer_mtu - 1300
    stage.carrier.give_up("too small", 0.0)
    assert stage.carrier.too_small == 1300
    assert stage.carrier.attempt is None
    return stage.carrier


def test_a_path_is_small_until_its_largest_packet_has_passed_again(stage: Stage) -> None:
    carrier = given_up(stage)
    link = stage.link(3600.0)
    carrier.tend(3600.0)
    assert carrier.too_small == 1300  # small ones, such as a handshake's, prove nothing
    link.path.echoed((1).to_bytes(8) + bytes(SESSION.mtu - 8), 3600.1)
    carrier.tend(3600.2)
    assert carrier.too_small is None


def test_only_news_of_another_way_bring_the_next_attempt_forward(stage: Stage) -> None:
    carrier = given_up(stage)
    carrier.doubt(10.0, moved=False)
    carrier.tend(10.0)
    assert carrier.attempt is None
    carrier.doubt(20.0, moved=True)
    carrier.tend(20.0)
    assert carrier.attempt is not None
    assert carrier.too_small is None
