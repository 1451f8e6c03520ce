"""Every DSCP, every ECN, both inner versions, both outer versions: the six bits appear outside, and nothing else does."""

import itertools
from collections import Counter

import pytest
from qosctl.bpf.dscp import Dscp

from tests.lab import Frame
from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import Inner, Record, Wiretap

TRAFFIC_CLASSES = range(256)
INNER_VERSIONS = (4, 6)
Cell = tuple[int, int]  # inner IP version, inner traffic class
CELLS: list[Cell] = [(version, byte) for version in INNER_VERSIONS for byte in TRAFFIC_CLASSES]
_BURST = 64  # well below what the tunnel device queues
_PAYLOAD_BYTES = 24  # a length that no other traffic in the tunnel has


def _payload(cell: Cell) -> bytes:
    # Another length for each: the length on the outer wire must not change with the switch either.
    return bytes(cell) + bytes(_PAYLOAD_BYTES + 2 * cell[1])


def _send_every_cell(inside: Inside, tap: Wiretap) -> dict[Cell, Record]:
    tap.forget()
    for start in range(0, len(CELLS), _BURST):
        for cell in CELLS[start : start + _BURST]:
            inside.send(_payload(cell), traffic_class=cell[1], version=cell[0])
        tap.carried(start + _BURST)
    inside.arrived(len(CELLS))
    records = {_cell(record.inner): record for record in tap.sent() if record.inner is not None}
    return {cell: records[cell] for cell in CELLS}


def _cell(inner: Inner) -> Cell:
    return inner.version, inner.traffic_class


def _all_but_the_six_bits(frame: Frame) -> bytes:
    """Return the header without what may differ: DSCP, IPv4 checksum, and the IPv4 packet count called identification."""
    header = bytearray(frame.header)
    if frame.family == 4:
        header[1] &= 0x03
        header[4:6] = header[10:12] = b"\0\0"
    else:
        header[0] &= 0xF0
        header[1] &= 0x3F
    return bytes(header)


def _gaps_in_identification(frames: list[Frame]) -> list[int]:
    numbers = [int.from_bytes(frame.header[4:6]) for frame in frames]
    return [step for a, b in itertools.pairwise(numbers) if (step := (b - a) % 65536) != 1]


@pytest.mark.parametrize("outer", [4, 6], ids=["outer_ipv4", "outer_ipv6"])
def test_the_outer_dscp_is_the_inner_one_and_nothing_else_changes(
    attached: Line, tap: Wiretap, inside: Inside, outer: int
) -> None:
    with attached.connected(outer, "--numbering", "plain"):
        off = _send_every_cell(inside, tap)
        attached.qosctl("passtos", "on")
        on = _send_every_cell(inside, tap)
        on_frames = [record.frame for record in tap.sent()]
        counted = attached.qosctl.read("status")["devices"][0]

    assert {record.frame.family for record in (*off.values(), *on.values())} == {outer}
    assert [cell for cell in CELLS if (off[cell].frame.dscp, off[cell].frame.ecn) != (0, 0)] == []
    wrong = {cell: on[cell].frame.dscp for cell in CELLS if on[cell].frame.dscp != cell[1] >> 2}
    assert wrong == {}
    assert [cell for cell in CELLS if on[cell].frame.ecn != 0] == []
    changed = [cell for cell in CELLS if _all_but_the_six_bits(on[cell].frame) != _all_but_the_six_bits(off[cell].frame)]
    assert changed == []
    assert [cell for cell in CELLS if len(on[cell].frame.payload) != len(off[cell].frame.payload)] == []
    assert [cell for cell in CELLS if not on[cell].frame.header_checksum_right] == []
    if outer == 4:
        assert _gaps_in_identification(on_frames) == []
    seen = Counter(Dscp.of(frame.dscp).name for frame in on_frames if frame.dscp)
    assert {name: entry["packets"] for name, entry in counted["outer"].items() if name != "DF"} == seen
    assert len(counted["outer"]) == 64
    assert counted["outcomes"]["stamped"] == seen.total()
