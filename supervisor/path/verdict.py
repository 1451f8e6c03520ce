"""What became of the mark: where it changed, and which of the known habits of networks did it (RFC 9435 section 4)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qosctl.bpf.dscp import DF, Dscp, Ecn
from qosctl.supervisor.path.traceroute import Hop, Trace

_PRECEDENCE_BELOW = 0b111  # the three low bits of a DSCP; above them stood the IP precedence (RFC 791, RFC 1349)


class Pattern(enum.Enum):
    """What was done to a DSCP."""

    KEPT = "kept"
    BLEACHED = "bleached to zero"
    PRECEDENCE_BLEACHED = "ToS precedence bleaching: the top three bits cleared"
    PRECEDENCE_REMARKED = "ToS precedence re-marking: the top three bits replaced"
    REMARKED = "re-marked"


class MarkState(enum.Enum):
    """How a hop's mark stands to what was sent and to what the hops before it received."""

    KEPT = "kept"
    CHANGED_HERE = "changed here"  # by the last hop before that quoted, by one between, or on the way in
    CHANGED_BEFORE = "changed before"
    SILENT = "quotes nothing"


@dataclass(frozen=True)
class Change:
    """Between the last hop that still received `old` (None: this machine) and the first that received `new`."""

    after: Hop | None
    seen_at: Hop
    old: Dscp
    new: Dscp
    silent_between: int

    @property
    def pattern(self) -> Pattern:
        """Which habit it was."""
        return pattern(self.old, self.new)

    def __str__(self) -> str:
        whom = f"hop {self.after.number} ({self.after.address})" if self.after else "this machine"
        where = f"between {whom} and hop {self.seen_at.number} ({self.seen_at.address})"
        hidden = f", {self.silent_between} silent in between" if self.silent_between else ""
        return f"{self.old} became {self.new} {where}{hidden}: {self.pattern.value}"


def pattern(old: Dscp, new: Dscp) -> Pattern:
    """Name what turns `old` into `new`; where two habits give the same result, the more common one (bleaching)."""
    if new is old:
        return Pattern.KEPT
    if new is DF:
        return Pattern.BLEACHED
    below = old.value & _PRECEDENCE_BELOW
    if new.value == below:
        return Pattern.PRECEDENCE_BLEACHED
    if below and new.value & _PRECEDENCE_BELOW == below:
        return Pattern.PRECEDENCE_REMARKED
    return Pattern.REMARKED


def changes(found: Trace) -> Iterator[Change]:
    """Yield each change of the DSCP along the way."""
    last: Hop | None = None
    current = found.mark
    for hop in found.hops:
        if hop.arrived is None:
            continue
        if hop.arrived.dscp is not current:
            silent = hop.number - (last.number if last else 0) - 1
            yield Change(last, hop, current, hop.arrived.dscp, silent)
            current = hop.arrived.dscp
        last = hop


def mark_states(found: Trace) -> list[MarkState]:
    """Return how each hop stands, in order."""
    seen = {change.seen_at.number for change in changes(found)}
    return [_mark_state(hop, hop.number in seen, found.mark) for hop in found.hops]


def _mark_state(hop: Hop, changed: bool, mark: Dscp) -> MarkState:
    if hop.arrived is None:
        return MarkState.SILENT
    if changed:
        return MarkState.CHANGED_HERE
    return MarkState.KEPT if hop.arrived.dscp is mark else MarkState.CHANGED_BEFORE


def ecn_changes(found: Trace) -> Iterator[str]:
    """Yield a sentence for each hop where the ECN field differs from what was sent, for the first time."""
    seen: set[Ecn] = set()
    for hop in found.hops:
        if hop.sent is None or hop.arrived is None or hop.arrived.ecn is hop.sent.ecn or hop.arrived.ecn in seen:
            continue
        seen.add(hop.arrived.ecn)
        what = "the network is congested" if hop.arrived.ecn is Ecn.CE else "somebody rewrites the whole byte, not six bits"
        yield f"ECN {hop.sent.ecn.name} arrived as {hop.arrived.ecn.name} at hop {hop.number} ({hop.address}): {what}"


def summary(found: Trace) -> str:
    """Say in one sentence what became of the mark."""
    quoting = [hop for hop in found.hops if hop.arrived is not None]
    if not quoting:
        return (
            f"no hop on the way to {found.address} quotes anything: what becomes of {found.mark} cannot be seen from here"
        )
    list_of_changes: Sequence[Change] = tuple(changes(found))
    far = "" if found.reached else f"; {found.address} itself did not answer, so what arrives there is not known"
    if not list_of_changes:
        return f"{found.mark} arrived as it was sent at all {len(quoting)} hops that quote{far}"
    return "; ".join(map(str, list_of_changes)) + far
