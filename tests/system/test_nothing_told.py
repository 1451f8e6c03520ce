"""What the wire does not tell. With passtos off: whether a call is in the tunnel, by marks, numbers or probes (finding 5).
With passtos on: a class that is not inside, since a probe travels only in one that the tunnel has carried lately."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.lab import Bottleneck
from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import DATA, Record, Wiretap

EF = 46 << 2
SECONDS = 2.0
BULK_AT_ONCE, PAUSE_S = 10, 0.005
BULK_BYTES, CALL_BYTES = 1000, 160
LOOKED_LONG_AGO_S, LOOKED_AT_LATEST_S = 0.5, 0.03


def _talk(tap: Wiretap, inside: Inside, call_byte: int) -> list[Record]:
    """Send bulk and a call of `call_byte`, the same packets at the same pace whatever it is; return the data records."""
    tap.forget()
    sent, deadline = 0, time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for _ in range(BULK_AT_ONCE):
            inside.send(b"bulk".ljust(BULK_BYTES, b"."))
        inside.send(b"call".ljust(CALL_BYTES, b"."), call_byte)
        sent += BULK_AT_ONCE + 1
        time.sleep(PAUSE_S)
    tap.carried(sent)
    return [record for record in tap.sent() if record.content_type == DATA]


def _small(records: list[Record]) -> int:
    """How many records there are that are too short for a packet of these: what an observer would count as probes."""
    return sum(len(record.plaintext) < CALL_BYTES for record in records)


@pytest.mark.audit
def test_off_looks_alike_with_a_call_and_without(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "off")
    with attached.connected():
        _talk(tap, inside, 0)  # what is asked once at the start of a path
        without, beside = _talk(tap, inside, 0), _talk(tap, inside, EF)
    for records in (without, beside):
        numbers = sorted(record.number for record in records)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert [record.number for record in records] == numbers
        assert Counter(record.frame.dscp for record in records) == {0: len(records)}
        assert not any(record.is_probe for record in records)
        assert _small(records) <= 4  # is the server there, is the path as wide: asked whatever is inside


@pytest.mark.audit
def test_off_again_tells_nothing_again(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected():
        assert any(record.is_probe for record in _talk(tap, inside, EF))
        attached.qosctl("passtos", "off")
        time.sleep(0.2)  # the client looks at the switch between packets, 30 ms at the latest
        records = _talk(tap, inside, EF)
    numbers = [record.number for record in records]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert not any(record.is_probe for record in records)


@pytest.mark.audit
def test_off_counts_for_the_first_packet_after_a_pause_too(attached: Line, tap: Wiretap, inside: Inside) -> None:
    """A client that nothing wakes looks at nothing either: not at the switch, until there is a packet."""
    with attached.connected():
        for _ in range(3):
            attached.qosctl("passtos", "on")
            assert any(record.is_probe for record in _talk(tap, inside, EF))
            time.sleep(LOOKED_LONG_AGO_S)
            attached.qosctl("passtos", "off")
            time.sleep(LOOKED_AT_LATEST_S)
            records = _talk(tap, inside, EF)
            numbers = [record.number for record in records]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert not any(record.is_probe for record in records)


def _marks(records: list[Record]) -> set[int]:
    return {record.frame.dscp for record in records}


@pytest.mark.parametrize("policy", [("reset",), ("allow", "EF")], ids=" ".join)
def test_bulk_alone_has_its_own_mark_and_so_have_its_probes(
    attached: Line, tap: Wiretap, inside: Inside, policy: tuple[str, ...]
) -> None:
    """Even where it waits in a queue, in which a call would overtake it."""
    attached.qosctl("policy", *policy)
    attached.qosctl("passtos", "on")
    with Bottleneck(attached.router, attached.topology.router_server_if, 5), attached.connected():
        tap.forget()
        deadline = time.monotonic() + 2 * SECONDS
        while time.monotonic() < deadline:
            for _ in range(BULK_AT_ONCE):
                inside.send(b"bulk".ljust(BULK_BYTES, b"."))
            time.sleep(PAUSE_S)
        records = [record for record in tap.sent() if record.content_type == DATA]
    assert sum(record.is_probe for record in records) > 10
    assert _marks(records) == {0}
