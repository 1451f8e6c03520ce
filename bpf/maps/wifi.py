"""A policy for a machine that is on Wi-Fi itself: each class into the queue of its radio that RFC 8325 names.

The outer DSCP is the inner one. What chooses the queue is skb->priority: 256 to 263 mean the user priorities 0 to 7 of
802.11 to the kernel (cfg80211_classify8021d() in net/wireless/util.c, which ieee80211_select_queue() asks, behind tc
egress). Without it many kernels go by the upper three bits of the DSCP alone: EF to video, not to voice, and AF11 behind
everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.maps.policy import Policy, Rule

_OF_USER_PRIORITY_0 = 256
_BEST_EFFORT = 0
# RFC 8325 section 4.3, figure 1. Of its two answers for CS6 and CS7 the one for packets from anywhere: what is inside a
# tunnel says of itself what it is (section 8.2). All that the figure does not name is best effort.
_USER_PRIORITIES: Mapping[str, int] = {
    "EF": 6, "VA": 6,
    "CS5": 5,
    "AF41": 4, "AF42": 4, "AF43": 4, "CS4": 4, "AF31": 4, "AF32": 4, "AF33": 4, "CS3": 4,
    "AF21": 3, "AF22": 3, "AF23": 3,
    "CS1": 1, "LE": 1,
}  # fmt: skip


def wifi() -> Policy:
    """Return the policy: each class keeps its DSCP, and goes into the queue of this machine's radio that is its own."""
    return Policy(
        {dscp: Rule(dscp, _OF_USER_PRIORITY_0 + _USER_PRIORITIES.get(dscp.name, _BEST_EFFORT)) for dscp in Dscp.all()}
    )
