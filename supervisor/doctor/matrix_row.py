"""What one kernel does with the byte in one respect, for both families: a row of the matrix.

Rows are made by trying, so their texts are a function of what was seen. The last part of this file turns what was seen -
which of the 256 bytes took the other wire, what became of each byte - into few and stable words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TRAFFIC_CLASS_COUNT, Dscp, Ecn, TrafficClass
from qosctl.supervisor.doctor.netlink import Reply

NOT_HERE = "not loaded here"
_NAMES_MAX = 8


@dataclass(frozen=True)
class MatrixRow:
    """One row. `ecn` says how the ECN bits change the outcome (empty: not at all), `breaks` what that means for people."""

    key: str
    topic: str
    what: str
    ipv4: str
    ipv6: str
    ecn: str = ""
    breaks: str = ""

    @property
    def families_agree(self) -> bool:
        """Whether both families do the same."""
        return self.ipv4 == self.ipv6

    @property
    def surprising(self) -> bool:
        """Whether somebody who knows RFC 2474 would be surprised."""
        return bool(self.breaks)


def each_byte() -> Iterable[int]:
    """All 256 values of the byte."""
    return range(TRAFFIC_CLASS_COUNT)


def matched_text(matched: frozenset[int]) -> str:
    """Say which DSCPs a rule or route matched; `matched` holds bytes."""
    if not matched:
        return "accepted, matches nothing"
    if len(matched) == TRAFFIC_CLASS_COUNT:
        return "accepted, matches every packet"
    found = sorted({TrafficClass.from_byte(byte).dscp for byte in matched})
    if len(found) == 1:
        return f"matches {found[0]} alone"
    names = ", ".join(map(str, found[:_NAMES_MAX])) + (", ..." if len(found) > _NAMES_MAX else "")
    return f"matches {len(found)} DSCPs: {names}"


def refused_text(reply: Reply) -> str:
    """Say that the kernel refused, and why."""
    return f"rejected: {reply.reason}"


def matched_ecn(matched: frozenset[int]) -> str:
    """Say whether the match depends on ECN bits; empty where it does not."""
    for dscp in {TrafficClass.from_byte(byte).dscp for byte in matched}:
        ecn = [e for e in Ecn if TrafficClass.of(dscp, e).byte in matched]
        if len(ecn) < len(Ecn):
            return f"{dscp} matched with {', '.join(e.name for e in ecn)} only"
    return ""


def wire_text(arrived: Mapping[int, TrafficClass]) -> str:
    """Say what became of the bytes that were asked for."""
    asked = {byte: TrafficClass.from_byte(byte) for byte in arrived}
    if len(arrived) < TRAFFIC_CLASS_COUNT:
        return f"{TRAFFIC_CLASS_COUNT - len(arrived)} of {TRAFFIC_CLASS_COUNT} bytes did not arrive"
    if all(arrived[byte] is asked[byte] for byte in asked):
        return "all 8 bits arrive as set"
    if all(arrived[byte] is TrafficClass.of(asked[byte].dscp, Ecn.NOT_ECT) for byte in asked):
        return "the DSCP arrives, ECN bits are masked"
    if len(set(arrived.values())) == 1:
        return "no effect"
    same = sum(arrived[byte] is asked[byte] for byte in asked)
    return f"{same} of {TRAFFIC_CLASS_COUNT} bytes arrive as set"


def carried_text(outer: Mapping[int, TrafficClass]) -> str:
    """Say what of the inner byte (the key) a tunnel's outer header carries."""
    inner = {byte: TrafficClass.from_byte(byte) for byte in outer}
    if len(outer) < TRAFFIC_CLASS_COUNT:
        return f"{TRAFFIC_CLASS_COUNT - len(outer)} of {TRAFFIC_CLASS_COUNT} bytes did not arrive"
    kept = {inner[byte].dscp for byte in outer if outer[byte].dscp is inner[byte].dscp}
    lost = {inner[byte].dscp for byte in outer if outer[byte].dscp is not inner[byte].dscp}
    dscp = (
        "DSCP carried"
        if not lost
        else "DSCP not carried"
        if len(kept - lost) <= 1
        else f"DSCP carried for {len(kept - lost)}"
    )
    ecn = {(inner[byte].ecn, outer[byte].ecn) for byte in outer}
    return f"{dscp}, {ecn_text(ecn)}"


def ecn_text(pairs: Iterable[tuple[Ecn, Ecn]]) -> str:
    """Say how ECN went outwards (RFC 6040 section 4.1: normal mode copies, CE included; many make CE an ECT(0))."""
    changed = sorted({(a.name, b.name) for a, b in pairs if a is not b})
    if not changed:
        return "ECN copied"
    if {b for _, b in pairs} == {Ecn.NOT_ECT}:
        return "ECN not copied"
    return "ECN copied but " + ", ".join(f"{a} as {b}" for a, b in changed)


def example(byte_to_value: Mapping[int, int], names: Iterable[str]) -> str:
    """Give the value of some classes without ECN bits: EF 4, AF41 2."""
    chosen = (Dscp.parse(name) for name in names)
    return ", ".join(f"{dscp} {byte_to_value[TrafficClass.of(dscp, Ecn.NOT_ECT).byte]}" for dscp in chosen)
