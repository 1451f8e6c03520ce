"""Waiting for what the kernel or another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

from qosctl.bpf.maps.ticks import ticks_now

_PAUSE_S = 0.02


def until(true: Callable[[], object], patience_s: float = 20) -> float:
    """Wait until something is true, and return how many seconds that took. AssertionError when it does not come."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + patience_s
        time.sleep(_PAUSE_S)
    return time.monotonic() - began


def next_tick() -> None:
    """Wait until the program's clock has ticked.

    What a process reads that began in the very tick of a `follow` may have gone unseen: its marks are open for two more.
    """
    present = ticks_now()
    until(lambda: ticks_now() != present)
