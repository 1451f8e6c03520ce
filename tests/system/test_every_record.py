"""Classes that change from packet to packet, batches on: each outer datagram has the DSCP of the packet inside it.

The full length, a million records, is tests.endurance's.
"""

from dataclasses import replace

import pytest
from qosctl.bpf.dscp import DF, EF

from tests.lab import Frame
from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import Record, Wiretap
from tests.system.every_record import ALL_CLASSES, FOUR_CLASSES, Account, account

_RECORDS = 10_000
_RECORDS_MISMARKED = 2_000


@pytest.mark.parametrize("outer", [4, 6], ids=["outer_ipv4", "outer_ipv6"])
def test_four_classes_in_batches(attached: Line, tap: Wiretap, inside: Inside, outer: int) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected(outer) as client:
        found = account(attached, client, tap, inside, _RECORDS)

    assert (found.mistakes, found.examples) == ({}, [])
    assert found.records == _RECORDS
    assert set(found.outer) == set(FOUR_CLASSES)
    assert {record.frame.family for record in found.last} == {outer}
    assert found.changes > 0.7 * _RECORDS
    assert found.records_per_send > 1.1  # there were batches


def test_all_classes(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as client:
        found = account(attached, client, tap, inside, _RECORDS, classes=ALL_CLASSES)

    assert (found.mistakes, found.examples) == ({}, [])
    assert found.records == _RECORDS
    assert set(found.outer) == set(ALL_CLASSES)


def test_the_account_finds_what_is_marked_wrong(attached: Line, tap: Wiretap, inside: Inside) -> None:
    """A whole class that is, a single record that is, and each other kind of mistake."""
    with attached.connected() as client:
        off = account(attached, client, tap, inside, _RECORDS_MISMARKED)
        attached.qosctl("passtos", "on")
        right = account(attached, client, tap, inside, _RECORDS_MISMARKED)
        attached.qosctl("policy", "set", "EF=AF11")
        shifted = account(attached, client, tap, inside, _RECORDS_MISMARKED)

    assert off.mistakes == {"DSCP": sum(off.inner[dscp] for dscp in FOUR_CLASSES if dscp != DF)}
    assert shifted.mistakes == {"DSCP": shifted.inner[EF]}
    assert shifted.inner[EF] > _RECORDS_MISMARKED / 8
    assert "DSCP: Record(" in shifted.examples[0]

    records = right.last
    assert _mistakes(records) == {}
    at = next(n for n in range(500, len(records)) if records[n].inner is not None)
    frame = records[at].frame
    flipped = bytes([frame.header[0], frame.header[1] ^ 4]) + frame.header[2:]
    assert _mistakes(_with_frame(records, at, replace(frame, dscp=frame.dscp ^ 1))) == {"DSCP": 1}
    assert _mistakes(_with_frame(records, at, replace(frame, ecn=1))) == {"ECN": 1}
    assert _mistakes(_with_frame(records, at, replace(frame, header=flipped))) == {"header checksum": 1}
    assert _mistakes(_with_frame(records, at, replace(frame, payload=frame.payload * 2))) == {
        "not alone in its datagram": 1
    }
    assert _mistakes([*records, records[at]]) == {"packet sent twice": 1, "number used twice": 1}


def _with_frame(records: list[Record], at: int, frame: Frame) -> list[Record]:
    return [*records[:at], replace(records[at], frame=frame), *records[at + 1 :]]


def _mistakes(records: list[Record]) -> dict[str, int]:
    found = Account()
    for record in records:
        found.add(record)
    return dict(found.mistakes)
