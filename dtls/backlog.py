"""What replay-safe numbering knows at one moment, for people and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    mode: Literal["plain", "safe"]
    """safe: records of some class take numbers behind the newest one."""
    slow: Dscp | None
    """The class that the others overtake, None where none does."""
    backlog: Mapping[Dscp, Backlog]
    """By class, for those that sent lately."""
    probes_sent: int
    probes_echoed: int
    probes_lost: int
    gaps_used: int
    gaps_left: int
    """Numbers in reserve."""
    suspected_replay_losses: int
    """Records that the receiver has probably dropped, judged by the fate of the probes among them."""
