"""Which of two DSCPs is more urgent: the order in which packets leave where not all can.

It is that of RFC 4594 and RFC 8325, which for most code points is their numeric order: network control, voice, video, the
assured classes, the default; then what asks for less than that, CS1 and LE (RFC 3662, RFC 8622).
"""

from __future__ import annotations

from qosctl.bpf.dscp import Dscp

_LESS_THAN_DEFAULT = {Dscp.parse("CS1"): -1, Dscp.parse("LE"): -2}
BY_URGENCY = sorted(Dscp.all(), key=lambda dscp: _LESS_THAN_DEFAULT.get(dscp, dscp.value), reverse=True)
"""All 64, the most urgent first."""
_RANK = tuple(map(BY_URGENCY.index, Dscp.all()))


def rank(dscp: Dscp) -> int:
    """Return where the DSCP stands in the order, 0 to 63; 0 goes first."""
    return _RANK[dscp.value]
