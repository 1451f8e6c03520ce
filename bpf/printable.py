"""Text from outside, fit to be shown: no terminal obeys anything in it.

`one_line` is for names, and messages of ours with names in them; `short_line` for what a server says; `one_column_each` for
tables.
"""

from __future__ import annotations

SHORT_LINE = 200


def one_line(text: str) -> str:
    """Return `text` with what is not printable in it written as Python would escape it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def short_line(text: str) -> str:
    """Return a stranger's words as one line of at most SHORT_LINE characters, without what is not printable in them."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= SHORT_LINE else line[:SHORT_LINE] + "..."


def one_column_each(text: str) -> str:
    """Return `text` as long as it was, in ASCII: a character of another width would move the columns behind it."""
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
