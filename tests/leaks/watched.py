"""One fault, with all of IPv4 and IPv6 inside and the wire watched: what a test asks of it."""

from __future__ import annotations

from pathlib import Path

from tests.leaks.clients import QosctlClient
from tests.leaks.faults import AROUND, FAULTS, Fault
from tests.leaks.stage import Stage

ALL = (*FAULTS, *AROUND)


def named(*rows: str) -> list[Fault]:
    """Return the faults of these rows. KeyError for a row that there is not."""
    faults = {row: fault for fault in ALL for row in fault.rows}
    return [faults[row] for row in rows]


def nothing_leaves(fault: Fault, folder: Path) -> None:
    """Let it happen to qosctl. AssertionError if anything leaves outside, or the tunnel does not carry again."""
    with Stage(QosctlClient, folder, fault.server) as stage:
        fault.happen(stage)
        assert stage.outcome.outside == {4: 0, 6: 0}
        assert stage.outcome.again == (not fault.ends and not fault.without_ipv6), stage.client.said
