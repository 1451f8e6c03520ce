"""Ctrl-C while something is being done that must be done wholly or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Hold SIGINT back inside the block, whose end raises the KeyboardInterrupt that it would have been.

    The block is given a call that raises it before: to be made where what has been done so far can be undone. Nothing is
    held in a thread other than the main one, which no signal interrupts.
    """
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    def obey() -> None:
        nonlocal asked
        if asked:
            asked = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield obey
    finally:
        signal.signal(signal.SIGINT, before)
    obey()
