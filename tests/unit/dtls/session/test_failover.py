"""What the carrier remembers of a path, and how often it tries, over real sockets and in the test's own time."""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface

import pytest
from OpenSSL import SSL
from qosctl.dtls.anyconnect.connect_response import Session, Timers
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.record.handshake import Finished
from qosctl.dtls.record.keys import Cipher, RecordKeys
from qosctl.dtls.session.dtls_attempt import ATTEMPT_S
from qosctl.dtls.session.dtls_channel import Link
from qosctl.dtls.session.factories import PLAIN
from qosctl.dtls.session.failover import LIVED_S, WAIT_MAX_S, Carrier
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.reconnect import SETTLE_S
from qosctl.dtls.session.session_stats import Tally
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.transport.tls_channel import Channel
from qosctl.dtls.transport.udp import UdpSocket

NEVER = Timers(0, 0)
ADDRESSES = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
SESSION = Session(ADDRESSES, 1434, 1500, NEVER, NEVER, 4443, bytes(32), "a test")
KEYS = RecordKeys(Cipher.AES_128_GCM, bytes(16), bytes(4), bytes(16), bytes(4))
FINISHED = Finished("PSK-AES128-GCM-SHA256", KEYS, 1 << 48 | 2)


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
            finished=FINISHED,
            numbering=PlainNumbering(1 << 48 | 2),
            entry=FlowEntry(None, ""),
            session=SESSION,
            outer=ip_address("127.0.0.1"),
            tally=Tally(),
            parts=PLAIN,
            now=now,
        )
        return self.carrier.link

    def finish(self, now: float) -> None:
        """Let the attempt under way have finished."""
        assert self.carrier.attempt is not None
        self.carrier.attempt._handshake.finished = FINISHED
        self.carrier.tend(now)
        assert self.carrier.link is not None


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


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
    assert carrier.tend(20.0) == 20.0 + SETTLE_S
    carrier.tend(20.0 + SETTLE_S)
    assert carrier.attempt is not None
    assert not carrier.too_small


def test_dtls_is_tried_at_once_on_a_path_with_room_for_ipv6() -> None:
    with ExitStack() as stack:
        carrier = Stage(stack, 1346).carrier
        carrier.tend(0.0)
        assert carrier.attempt is not None


def next_attempt(carrier: Carrier, now: float, until: float) -> float:
    """Do what is due until another attempt begins, and say when, or that none has begun `until` then."""
    before = carrier.attempt
    while now < until:
        due = carrier.tend(now)
        if carrier.attempt is not None and carrier.attempt is not before:
            return now
        before = carrier.attempt
        now = max(due, now + 0.001)
    return until


def attempts(carrier: Carrier, now: float, until: float) -> list[float]:
    begun = []
    while (now := next_attempt(carrier, now, until)) < until:
        begun.append(now)
    return begun


@pytest.mark.audit
def test_attempts_become_rare_while_nothing_comes_of_them(stage: Stage) -> None:
    """Finding 7, QC-16: 108 source ports in eight minutes."""
    begun = attempts(stage.carrier, 0.0, 480.0)
    assert begun[0] == 0.0
    assert 10 < len(begun) < 25
    gaps = [later - sooner for sooner, later in itertools.pairwise(begun)]
    assert all(ATTEMPT_S <= gap < ATTEMPT_S + WAIT_MAX_S + 1 for gap in gaps)
    assert gaps[0] < ATTEMPT_S + 1
    assert gaps[-1] > WAIT_MAX_S / 2


@pytest.mark.audit
def test_a_channel_that_is_closed_at_once_makes_no_attempt_quicker(stage: Stage) -> None:
    """Finding 7: a server that closes what it has opened was begun with again without a pause."""
    begun: list[float] = []
    now = 0.0
    while (now := next_attempt(stage.carrier, now, 480.0)) < 480.0:
        begun.append(now)
        stage.finish(now)
        stage.carrier.lose("closed", now)
    assert 10 < len(begun) < 25


def test_a_channel_that_has_lived_is_tried_for_again_at_once(stage: Stage) -> None:
    carrier = stage.carrier
    attempts(carrier, 0.0, 300.0)
    now = next_attempt(carrier, 300.0, 400.0)
    stage.finish(now)
    carrier.lose("gone", now + LIVED_S)
    assert next_attempt(carrier, now + LIVED_S, now + 100) == now + LIVED_S


@pytest.mark.audit
def test_news_of_the_network_bring_attempts_forward_within_bounds(stage: Stage) -> None:
    carrier = stage.carrier
    attempts(carrier, 0.0, 300.0)
    begun = 0
    for now in range(300, 400):
        carrier.doubt(float(now), moved=True)
        begun += len(attempts(carrier, float(now), now + 1.0))
    assert 3 <= begun <= 8  # in calm, two
