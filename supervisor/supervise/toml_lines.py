"""On which line of a TOML text a key is set: tomllib does not say.

Found by parsing ever longer beginnings of the text, so that strings and arrays of several lines cannot mislead: the first
beginning that has the key ends with its value, and the one before that parsed ends above it. Only for error messages.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the line, counted from 1, where the key at `path` (tables, then key) begins; None where it is not set."""
    lines = text.splitlines(keepends=True)
    above = 0
    for end in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:  # in the middle of a value
            continue
        if _has(table, path):
            return above + 1
        above = end
    return None


def _has(table: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
