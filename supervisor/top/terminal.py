"""The terminal: a screen of its own, drawn over in place, and given back whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import TextIO

_OPEN, _CLOSE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # xterm's other screen, which tmux and screen know too
_HOME, _TO_END_OF_LINE, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


def can_draw(out: TextIO) -> bool:
    """Whether `out` is a terminal that one can draw on."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Screen:
    """Draws on `out`; in the `with` block the terminal is ours."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines now: a window can change."""
        size = os.get_terminal_size(self._out.fileno())
        return (size.columns or 80, size.lines or 24)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else."""
        self._out.write(_HOME + "\r\n".join(line + _TO_END_OF_LINE for line in lines) + _TO_END)
        self._out.flush()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Take the terminal and give it back."""
        self._out.write(_OPEN)
        try:
            with _single_keys():
                yield
        finally:
            self._out.write(_CLOSE)
            self._out.flush()


def wait(seconds: float, *, keys: bool) -> bool:
    """Wait that long; True at once when somebody presses q."""
    if not (keys and sys.stdin.isatty()):
        select.select([], [], [], seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return False
    keys_pressed = os.read(sys.stdin.fileno(), 64)
    return not keys_pressed or b"q" in keys_pressed.lower()  # nothing to read: the terminal has gone


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Get keys without Enter, unseen; Ctrl-C still interrupts."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
