"""The ear of a numbering that wants to know where the receiver is: probes it asks for, and their echoes.

A probe is a DPD request in the class it measures; the server echoes its payload. Here is only what the loop and such a
numbering say to each other; session/dpd_payload.py has what a request carries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.snapshot import Snapshot

PROBES_AT_ONCE = 8
"""Asked for in front of the same packets, at the most: one for each queue that a network has for classes (CS0 to CS7). What
is due beyond it is due before the next packets, too, and those that are read now do not wait for it."""


@runtime_checkable
class ProbingNumbering(Protocol):
    """A Numbering that probes. All times are on the clock of `now`, in seconds."""

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """See plain.Numbering.take."""
        ...

    @property
    def good_until(self) -> float:
        """See plain.Numbering.good_until."""
        ...

    def waits(self, now: float) -> bool:
        """Tell cheaply that no probe is due: then there is no need to ask `probe_due`."""
        ...

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:
        """Return the class in which to send a probe now, or None. `present` are the classes of what is sent next."""
        ...

    def probe_sent(self, dscp: Dscp, now: float) -> int:
        """Return the id (0 to 2**64 - 1) for a probe; the next number taken for `dscp` is that probe's."""
        ...

    def probe_echoed(self, probe: int, now: float) -> None:
        """Learn that the probe arrived; an id nobody sent, or one echoed before, changes nothing."""
        ...

    def snapshot(self, now: float) -> Snapshot:
        """Return what it knows, for people and metrics."""
        ...
