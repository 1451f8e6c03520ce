"""Descriptors that are this process's for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    """Yield a descriptor that has just been opened, and close it at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)
