"""A Markdown page that is generated in part: its tables, its blocks, and the rule that it loses no rows.

A block stands between two comments, `<!-- NAME: ... -->` and `<!-- end of NAME -->`, each a line of its own.
"""

from __future__ import annotations

import re
from pathlib import Path


class RefusedError(Exception):
    """A figure would say less than it does now, or cannot be drawn. Nothing was written."""


Cells = dict[str, str]


def table(text: str) -> dict[str, Cells]:
    """Return the cells of the first table of a page, by first cell of the row and by head of the column."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    if not lines:
        return {}
    head, _, *rows = lines
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def rows(text: str) -> int:
    """Count the rows of all tables, heads included."""
    return sum(line.startswith("|") for line in text.splitlines())


def with_block(text: str, name: str, block: str) -> str:
    """Return the page with another content of a block. RefusedError without the block, or when it would lose rows."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
    found = pattern.search(text)
    if found is None:
        raise RefusedError(f"there is no block {name!r}")
    if rows(block) < rows(found[2]):
        raise RefusedError(f"block {name!r} would have {rows(block)} rows, and has {rows(found[2])}")
    return text[: found.start()] + found[1] + block.rstrip("\n") + "\n" + found[3] + text[found.end() :]


def write(page: Path, text: str) -> None:
    """Write a whole page. RefusedError when its tables would have fewer rows than now."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    if rows(text) < rows(before):
        raise RefusedError(f"{page.name} would have {rows(text)} rows, and has {rows(before)}")
    page.write_text(text, encoding="utf-8")
