"""Looking at findings in tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import pytest
from qosctl.supervisor.doctor.finding import Finding, Level

_looked_at: ContextVar[list[Finding] | None] = ContextVar("looked_at", default=None)


def causes(check: str, words: str) -> pytest.MarkDecorator:
    """Mark a test, or a case of one, that brings about this finding for real. `words` tell it from others of its check.

    The test must have looked at such a finding when it ends (conftest.py), and every finding that is not PASS must be
    brought about by some test (test_every_finding.py).
    """
    return pytest.mark.causes(check, words)


@contextmanager
def noted() -> Iterator[list[Finding]]:
    """Collect the findings that are looked at inside the block."""
    found: list[Finding] = []
    token = _looked_at.set(found)
    yield found
    _looked_at.reset(token)


def look_at(findings: Iterable[Finding]) -> list[Finding]:
    """Note what a test looks at."""
    found = list(findings)
    collected = _looked_at.get()
    if collected is not None:
        collected += found
    return found


def one(findings: Iterable[Finding], check: str) -> Finding:
    """The only finding of a check."""
    (found,) = (finding for finding in look_at(findings) if finding.check == check)
    return found


def bad(findings: Iterable[Finding]) -> dict[str, Level]:
    """The checks that are not as they should be. Every such finding has its three sentences."""
    found = [finding for finding in look_at(findings) if finding.level is not Level.PASS]
    assert all(finding.seen and finding.means and finding.fix for finding in found), found
    return {finding.check: finding.level for finding in found}


def children() -> set[str]:
    """The processes that this one has started and not yet waited for."""
    return set(Path(f"/proc/self/task/{Path('/proc/thread-self').resolve().name}/children").read_text().split())


def said_in(entry: dict[str, str]) -> Finding:
    """A finding as `qosctl doctor --json` gives it."""
    return Finding(Level(entry["level"]), entry["check"], entry["seen"], entry["means"], entry["fix"])
