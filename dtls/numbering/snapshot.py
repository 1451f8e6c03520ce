"""What replay-safe numbering knows at one moment, for people and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from qosctl.bpf.dscp import Dscp


@dataclass(frozen=True)
class Backlog:
    """Estimated queue of one class in the network."""

    records: int
    milliseconds: float


@dataclass(frozen=True)
class Snapshot:
    """The state of replay-safe numbering. Counts are cumulative."""

    mode: Literal["plain", "replay-safe"]
    """replay-safe: records of some class take numbers behind the newest one."""
    overtaken: Dscp | None
    """The class that the others overtake, None where none does."""
    backlog: Mapping[Dscp, Backlog] | None
    """By class, for those that sent lately; None while nothing is measured."""
    probes_sent: int
    probes_echoed: int
    probes_lost: int
    gaps_used: int
    gaps_left: int
    """Numbers in reserve."""
    suspected_replay_losses: int
    """Records that the receiver has probably dropped, judged by the fate of the probes among them."""
    disproved: int = 0
    """How often a class took plain numbers again, because echoes contradicted what others had shown."""

    def ended(self) -> Snapshot:
        """Return what is left of it when its epoch is over: the counts."""
        return replace(self, mode="plain", overtaken=None, backlog=None, gaps_left=0)

    def following(self, earlier: Snapshot) -> Snapshot:
        """Return this one with the counts of an earlier epoch in it."""
        return replace(
            self,
            probes_sent=self.probes_sent + earlier.probes_sent,
            probes_echoed=self.probes_echoed + earlier.probes_echoed,
            probes_lost=self.probes_lost + earlier.probes_lost,
            gaps_used=self.gaps_used + earlier.gaps_used,
            suspected_replay_losses=self.suspected_replay_losses + earlier.suspected_replay_losses,
            disproved=self.disproved + earlier.disproved,
        )
