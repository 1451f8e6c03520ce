"""Words from outside, fit to be shown."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return `text` with what is not printable in it written as Python would escape it: no terminal obeys it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
