"""Messages to people from commands that run for long: one line at a time, and how much it matters."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Severity(enum.IntEnum):
    """How much a line matters, by the numbers of RFC 5424 section 6.2.1: less is worse."""

    ERROR = 3
    """It ends what the user asked for."""
    WARNING = 4
    """Packets fare worse than they should."""
    NOTICE = 5
    """Something has changed."""
    INFO = 6
    """What is being tried, for those who want to follow it."""
    DEBUG = 7
    """Each packet."""


Say = Callable[[Severity, str], None]
"""Takes a line without a full stop. It must not raise, and not wait for long."""
