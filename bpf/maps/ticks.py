"""Moments as the program compares them: 2^27 ns of the monotonic clock, 0.13 s, so that 32 bits last for 18 years."""

from __future__ import annotations

import time

_SHIFT = 27


def ticks_now() -> int:
    """Return the present moment; never 0, which means that there was none."""
    return max(time.monotonic_ns() >> _SHIFT & 0xFFFFFFFF, 1)
