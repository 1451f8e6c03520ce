"""What is sealed and waits for room: counted once, whether it leaves or is lost with its channel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from qosctl.dtls.anyconnect.protocol import ANYCONNECT
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.packets.batch import Batcher
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.protection import RecordSealer
from qosctl.dtls.session.send_queue import SendQueue
from qosctl.dtls.session.session_stats import SessionCounters

PACKET = bytes((0x45, *bytes(99)))


class FullSocket:
    """A UDP socket without room. (What the kernel does with a real one is in tests/dtls/session/test_full_socket.py.)"""

    def __init__(self) -> None:
        self.descriptor = 5

    def fileno(self) -> int:
        return self.descriptor

    def send(self, _: object) -> bool:
        return False


@pytest.fixture
def counters() -> SessionCounters:
    return SessionCounters()


@pytest.fixture
def dtls(counters: SessionCounters) -> Any:
    sealer = RecordSealer(Cipher.AES_128_GCM, bytes(16), bytes(4))
    uplink = Batcher(sealer, PlainNumbering(), None, data_byte=ANYCONNECT.data_byte, sent=counters.sent)
    return SimpleNamespace(udp=FullSocket(), uplink=uplink, prober=None, life=SimpleNamespace(last_tx=0.0))


@pytest.fixture
def queue(counters: SessionCounters, dtls: Any) -> SendQueue:
    """With three packets sealed, and two held behind them."""
    queue = SendQueue(counters, lambda: 0.0)
    queue.send(dtls, [PACKET] * 3, 0.0)
    queue.send(dtls, [PACKET] * 2, 0.0)
    return queue


def test_what_was_sealed_for_a_channel_that_is_lost_is_counted_as_dropped(
    queue: SendQueue, counters: SessionCounters
) -> None:
    assert queue.give_back() == [PACKET] * 2
    assert counters.dropped == {DropReason.CHANNEL_LOST: 3}
    assert (queue.give_back(), counters.dropped) == ([], {DropReason.CHANNEL_LOST: 3})


def test_so_is_what_waits_for_a_socket_that_is_closed_when_another_channel_is_up(
    queue: SendQueue, dtls: Any, counters: SessionCounters
) -> None:
    dtls.udp.descriptor = -1
    dtls.udp = FullSocket()
    queue.catch_up(dtls, 0.0)
    assert counters.dropped == {DropReason.CHANNEL_LOST: 3}
    assert counters.sent.total.packets == 5


def test_what_still_waits_is_not_dropped(queue: SendQueue, dtls: Any, counters: SessionCounters) -> None:
    queue.catch_up(dtls, 0.0)
    assert queue.stuck
    assert counters.dropped == {}
