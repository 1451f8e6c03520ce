"""Are marked packets treated better? Round trips by class, through a running tunnel, while its other traffic goes on.

Requests of two classes leave in turns, so both meet the same moment; their classes become the outer ones on the way out.
The answers come back unmarked, as all that a VPN server sends does, so that a difference is the way out's. The tunnel's own
DPD echo is asked first (dpd_echo.py); where its client does not answer, pings go through the tunnel (icmp_echo.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.bpf.maps.flows import Flow
from qosctl.supervisor.devices.passtos import passtos
from qosctl.supervisor.path import dpd_echo, icmp_echo
from qosctl.supervisor.path.rtt import DscpTimes

_BETTER, _NOISE_MS = 0.7, 2.0  # a median below this share of the other's, by more than this, is not chance


class Echo(enum.Enum):
    """Who answers."""

    DPD = "dpd"
    ICMP = "icmp"


@dataclass(frozen=True)
class Comparison:
    """The marked and the unmarked class through `device`; `note` says what should be known of it, or is empty."""

    device: str
    echo: Echo
    marked: DscpTimes
    unmarked: DscpTimes
    note: str = ""

    @property
    def verdict(self) -> str:
        """One sentence."""
        marked, unmarked = self.marked.median_ms, self.unmarked.median_ms
        if marked is None:
            return f"the far end of {self.device} does not answer: nothing to compare"
        if unmarked is None or (marked < _BETTER * unmarked and unmarked - marked > _NOISE_MS):
            return f"{self.marked.dscp} is treated better than {self.unmarked.dscp}"
        return f"{self.marked.dscp} is not faster than {self.unmarked.dscp}: no full queue on the way looks at it"


def compare(flow: Flow, marked: Dscp, unmarked: Dscp) -> Comparison:
    """Measure both classes in turns; takes some 4 s. Where the device goes away meanwhile, the note says so."""
    device = flow.owner.tunnel
    note = _why_unmarked()
    try:
        times = dpd_echo.measure(flow, (marked, unmarked))
        return Comparison(device, Echo.DPD, times[0], times[1], note)
    except dpd_echo.NoAnswerError as reason:
        note = f"no DPD echo of {device}: {reason}" + (f"; {note}" if note else "")
        inside = None if isinstance(reason, dpd_echo.GoneError) else icmp_echo.far_end(device)
    times = [DscpTimes(marked, (), 0), DscpTimes(unmarked, (), 0)]
    if inside is not None:
        try:
            times = icmp_echo.measure(device, inside, (marked, unmarked))
        except RefusedError as error:  # what the trace has found is good all the same
            note += f"; {error.message}"
    return Comparison(device, Echo.ICMP, times[0], times[1], note)


def _why_unmarked() -> str:
    try:
        return "" if passtos() else "passtos is off, so both left unmarked"
    except NotAttachedError:
        return "nothing is attached, so both left unmarked"
