"""Looking at findings in tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qosctl.supervisor.doctor.finding import Finding, Level


def one(findings: Iterable[Finding], check: str) -> Finding:
    """The only finding of a check."""
    (found,) = (finding for finding in findings if finding.check == check)
    return found


def bad(findings: Iterable[Finding]) -> dict[str, Level]:
    """The checks that are not as they should be. Every such finding has its three sentences."""
    found = [finding for finding in findings if finding.level is not Level.PASS]
    assert all(finding.seen and finding.means and finding.mend for finding in found), found
    return {finding.check: finding.level for finding in found}


def children() -> set[str]:
    """The processes that this one has started and not yet waited for."""
    return set(Path(f"/proc/self/task/{Path('/proc/thread-self').resolve().name}/children").read_text().split())
