"""What a check comes to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """FAIL: marking does not work. WARN: it works, and does not do what one may expect. PASS: as it should be."""

    FAIL = "FAIL"
    WARN = "WARN"
    PASS = "PASS"


@dataclass(frozen=True)
class Finding:
    """One sentence of what was seen, one of what it means for marking, and the command that fixes it (if any)."""

    level: Level
    check: str  # a stable name, for machines
    seen: str
    means: str = ""
    fix: str = ""


def passed(check: str, seen: str, means: str = "") -> Finding:
    """As it should be."""
    return Finding(Level.PASS, check, seen, means)


def warned(check: str, seen: str, means: str, fix: str) -> Finding:
    """Works, with a surprise."""
    return Finding(Level.WARN, check, seen, means, fix)


def failed(check: str, seen: str, means: str, fix: str) -> Finding:
    """Does not work."""
    return Finding(Level.FAIL, check, seen, means, fix)
