"""What the failover remembers of a path, and how often it tries, over real sockets and in the test's own time."""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface

import pytest
from OpenSSL import SSL
from qosctl.dtls.anyconnect.protocol import ANYCONNECT, app_id_key
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.record.handshake import Finished
from qosctl.dtls.record.keys import Cipher, RecordKeys
from qosctl.dtls.session.dtls_attempt import ATTEMPT_S
from qosctl.dtls.session.dtls_channel import DtlsChannel
from qosctl.dtls.session.factories import PLAIN
from qosctl.dtls.session.failover import LIVED_S, WAIT_MAX_S, Failover
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.reconnect import SETTLE_S
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.transport.tls_channel import TlsChannel
from qosctl.dtls.transport.udp import UdpSocket
from qosctl.dtls.vpn.session import Session, Timers

NEVER = Timers(0, 0)
ADDRESSES = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
SESSION = Session(ADDRESSES, 1434, 1500, NEVER, NEVER, 4443, bytes(32), "a test")
KEYS = RecordKeys(Cipher.AES_128_GCM, bytes(16), bytes(4), bytes(16), bytes(4))
FINISHED = Finished("PSK-AES128-GCM-SHA256", KEYS, 1 << 48 | 2)


class Stage:
    """A failover whose DTLS server says nothing by itself."""

    def __init__(self, stack: ExitStack, path_mtu: int = 1500) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        self._server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._server.bind(("127.0.0.1", 0))
        self._poll = stack.enter_context(select.epoll())
        self.why: list[str] = []
        channel = TlsChannel(near, SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD)), "a test")
        self.failover = Failover(
            opened=Opened(channel, ANYCONNECT, SESSION, app_id_key(bytes(32), SESSION.app_id), b"", path_mtu),
            numbering=PlainNumbering,
            entry=FlowEntry(None, ""),
            counters=SessionCounters(),
            poll=self._poll,
            factories=PLAIN,
            changed=lambda _state, why: self.why.append(why),
            now=0.0,
        )
        stack.callback(lambda: self.failover.close(0.0, tell_server=False))

    def channel(self, now: float) -> DtlsChannel:
        """Let a handshake have finished."""
        udp = UdpSocket.connect(self._server.getsockname())
        self._poll.register(udp.fileno(), select.EPOLLIN)
        self.failover.dtls = DtlsChannel(
            udp=udp,
            finished=FINISHED,
            numbering=PlainNumbering(1 << 48 | 2),
            entry=FlowEntry(None, ""),
            protocol=ANYCONNECT,
            session=SESSION,
            outer=ip_address("127.0.0.1"),
            counters=SessionCounters(),
            factories=PLAIN,
            now=now,
        )
        return self.failover.dtls

    def finish(self, now: float) -> None:
        """Let the attempt under way have finished."""
        assert self.failover.attempt is not None
        self.failover.attempt._handshake.finished = FINISHED
        self.failover.tend(now)
        assert self.failover.dtls is not None


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


@pytest.fixture
def small() -> Iterator[Stage]:
    """A path that takes 1300 bytes, with IPv6 inside."""
    with ExitStack() as stack:
        made = Stage(stack, 1300)
        made.failover.tend(0.0)
        assert made.failover.attempt is None
        made.failover.take_over()
        assert made.why == ["the path is too small for IPv6 over UDP"]
        yield made


def test_a_path_is_small_until_its_largest_packet_has_passed_again(small: Stage) -> None:
    failover, dtls = small.failover, small.channel(3600.0)
    failover.tend(3600.0)
    assert failover.too_small  # small ones, such as a handshake's, prove nothing
    dtls.path.echoed(1, SESSION.mtu, 3600.1)
    failover.tend(3600.2)
    assert not failover.too_small


def test_only_news_of_another_way_bring_the_next_attempt_forward(small: Stage) -> None:
    failover = small.failover
    failover.doubt(10.0, moved=False)
    failover.tend(10.0)
    assert failover.attempt is None
    failover.doubt(20.0, moved=True)
    assert failover.tend(20.0) == 20.0 + SETTLE_S
    failover.tend(20.0 + SETTLE_S)
    assert failover.attempt is not None
    assert not failover.too_small


def test_dtls_is_tried_at_once_on_a_path_with_room_for_ipv6() -> None:
    with ExitStack() as stack:
        failover = Stage(stack, 1346).failover
        failover.tend(0.0)
        assert failover.attempt is not None


def next_attempt(failover: Failover, now: float, until: float) -> float:
    """Do what is due until another attempt begins, and say when, or that none has begun `until` then."""
    before = failover.attempt
    while now < until:
        due = failover.tend(now)
        if failover.attempt is not None and failover.attempt is not before:
            return now
        before = failover.attempt
        now = max(due, now + 0.001)
    return until


def attempts(failover: Failover, now: float, until: float) -> list[float]:
    begun = []
    while (now := next_attempt(failover, now, until)) < until:
        begun.append(now)
    return begun


@pytest.mark.audit
def test_attempts_become_rare_while_nothing_comes_of_them(stage: Stage) -> None:
    """Finding 7, QC-16: 108 source ports in eight minutes."""
    begun = attempts(stage.failover, 0.0, 480.0)
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
    while (now := next_attempt(stage.failover, now, 480.0)) < 480.0:
        begun.append(now)
        stage.finish(now)
        stage.failover.lose("closed", now)
    assert 10 < len(begun) < 25


def test_a_channel_that_has_lived_is_tried_for_again_at_once(stage: Stage) -> None:
    failover = stage.failover
    attempts(failover, 0.0, 300.0)
    now = next_attempt(failover, 300.0, 400.0)
    stage.finish(now)
    failover.lose("gone", now + LIVED_S)
    assert next_attempt(failover, now + LIVED_S, now + 100) == now + LIVED_S


@pytest.mark.audit
def test_news_of_the_network_bring_attempts_forward_within_bounds(stage: Stage) -> None:
    failover = stage.failover
    attempts(failover, 0.0, 300.0)
    begun = 0
    for now in range(300, 400):
        failover.doubt(float(now), moved=True)
        begun += len(attempts(failover, float(now), now + 1.0))
    assert 3 <= begun <= 8  # in calm, two
