"""Numbering that tells nothing while no mark leaves.

Gaps in the numbers, and how often probes are sent, show anybody on the path whether a second class is in use. That is the
price of marks, which show it anyway; while passtos is off it must not be paid. So the numbers are then consecutive, and
nothing is probed, as with any other DTLS sender.

    marks leave      a numbering of its own each time, above all numbers that were used before
    they do not      consecutive numbers, above all numbers that were used before

Whoever comes next begins above the last, so no number is used twice however often the operator changes their mind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.plain import FIRST_NUMBER, PlainNumbering
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering
from qosctl.dtls.numbering.snapshot import Snapshot

_NOTHING = Snapshot(
    mode="plain",
    overtaken=None,
    backlog=None,
    probes_sent=0,
    probes_echoed=0,
    probes_lost=0,
    gaps_used=0,
    gaps_left=0,
    suspected_replay_losses=0,
)


class SwitchedNumbering:
    """Owns the numbers of one epoch; satisfies probe.ProbingNumbering. Marks do not leave until it is told that they do."""

    def __init__(self, first: int = FIRST_NUMBER) -> None:
        self._plain = PlainNumbering(first)
        self._safe: ReplaySafeNumbering | None = None
        self._take: Callable[[Dscp, int, float], Sequence[int]] = self._plain.take
        self._ids_before = 0  # of probes that an earlier numbering sent: their echoes tell this one nothing
        self._counted = _NOTHING

    def set_marking(self, marks_leave: bool, now: float) -> None:
        """Learn whether marks leave at present; it may be said again and again."""
        if marks_leave and self._safe is None:
            self._safe = ReplaySafeNumbering(self._plain.newest + 1)
            self._take = self._safe.take
        elif not marks_leave and self._safe is not None:
            self._counted = self._safe.snapshot(now).ended().following(self._counted)
            self._ids_before = self._counted.probes_sent
            self._plain = PlainNumbering(self._safe.newest + 1)
            self._take, self._safe = self._plain.take, None

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused numbers; see plain.Numbering.take."""
        return self._take(dscp, count, now)

    @property
    def good_until(self) -> float:
        """Until when the numbers taken last may be sent."""
        return inf if self._safe is None else self._safe.good_until

    def waits(self, now: float) -> bool:
        """Tell cheaply that no probe is due."""
        return self._safe is None or self._safe.waits(now)

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:
        """Return the class in which to send a probe now, or None. `present` are the classes of what is sent next."""
        return None if self._safe is None else self._safe.probe_due(now, present)

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id for a probe that is about to be sent. Only after `probe_due` has asked for one."""
        assert self._safe is not None
        return self._ids_before + self._safe.probe_sent(dscp, now)

    def probe_echoed(self, probe: int, now: float) -> None:
        """Learn that a probe arrived; one from before the last change of the switch tells nothing."""
        if self._safe is not None and probe > self._ids_before:
            self._safe.probe_echoed(probe - self._ids_before, now)

    def snapshot(self, now: float) -> Snapshot:
        """Return the present state, and the counts of the whole epoch."""
        return self._counted if self._safe is None else self._safe.snapshot(now).following(self._counted)
