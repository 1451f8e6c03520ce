"""Folding classes: the fewer kinds of marks leave, the less they tell (RFC 5127 treatment aggregates).

    2   real-time as EF, all else as DF
    3   real-time as EF, assured elastic as AF31, all else as DF
    4   the same, and network control as CS6

LE keeps its own mark always: anything else would promote it (RFC 8622).
"""

from __future__ import annotations

from qosctl.bpf.dscp import DF, EF, LE, Dscp
from qosctl.bpf.maps.policy import Policy, Rule

FOLDS = (2, 3, 4)

_AF31, _CS6 = Dscp.parse("AF31"), Dscp.parse("CS6")

# RFC 5127 section 4, figure 2, in the classes of RFC 4594; VA of RFC 5865 is a telephone call too.
_REAL_TIME = frozenset(map(Dscp.parse, ("EF", "VA", "CS5", "AF41", "AF42", "AF43", "CS4", "CS3")))
_ASSURED_ELASTIC = frozenset(
    map(Dscp.parse, ("AF31", "AF32", "AF33", "AF21", "AF22", "AF23", "AF11", "AF12", "AF13", "CS2"))
)
_NETWORK_CONTROL = frozenset(map(Dscp.parse, ("CS6", "CS7")))


def fold(classes: int) -> Policy:
    """Return the policy that lets `classes` (2, 3 or 4) kinds of marks out, besides LE; ValueError for other numbers."""
    if classes not in FOLDS:
        raise ValueError(f"{classes} classes: folding knows 2, 3 and 4")
    return Policy({dscp: Rule(_folded(dscp, classes)) for dscp in Dscp.all()})


def _folded(dscp: Dscp, classes: int) -> Dscp:
    if dscp is LE:
        return LE
    if dscp in _REAL_TIME:
        return EF
    if dscp in _ASSURED_ELASTIC and classes >= 3:
        return _AF31
    return _CS6 if dscp in _NETWORK_CONTROL and classes >= 4 else DF
