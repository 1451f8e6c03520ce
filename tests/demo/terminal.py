"""How the demo talks: numbered steps, the commands as a person would type them, and small tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_WIDTH = 100


def title(text: str) -> None:
    """Begin a part."""
    print(f"\n{text}\n{'-' * len(text)}\n", flush=True)


def say(text: str) -> None:
    """Say a paragraph, wrapped."""
    print(textwrap.fill(" ".join(text.split()), _WIDTH) + "\n", flush=True)


def command(text: str) -> None:
    """Show a command as typed on the client."""
    print(f"    client# {text}", flush=True)


def quote(text: str, limit: int = 40) -> None:
    """Show what a command answered, at most `limit` lines of it."""
    lines = text.rstrip().splitlines()
    for line in lines[:limit]:
        print(f"    {line}")
    if len(lines) > limit:
        print(f"    ... ({len(lines) - limit} more lines)")
    if lines:
        print(flush=True)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Show rows in columns: the first to the left, figures to the right. The first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("    " + "   ".join(cells))
    print(flush=True)
