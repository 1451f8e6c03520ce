"""Closing descriptors that another process has chosen: close(2) may take as long as that process likes.

Closing the last one of a TCP socket waits for unsent data (SO_LINGER); closing one of a file in a user's file system
(FUSE) waits for its server. So a separate thread closes them, and its caller waits for it only a moment.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress

PATIENCE_S = 0.1


class Closer:
    """Closes what it is given, in order. The thread starts with the first, so that the object may be made before a fork."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._open = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def close(self, descriptors: Sequence[int]) -> int:
        """Close these; returns how many are open still, of these and of earlier ones."""
        if descriptors and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="closer", daemon=True)
            self._thread.start()
        with self._changed:
            self._open += len(descriptors)
        for each in descriptors:
            self._given.put(each)
        with self._changed:
            self._changed.wait_for(lambda: not self._open, PATIENCE_S if descriptors else 0)
            return self._open

    def _work(self) -> None:
        while True:
            each = self._given.get()
            with suppress(OSError):  # what a file system has to say at the end is not for us
                os.close(each)
            with self._changed:
                self._open -= 1
                self._changed.notify_all()
