"""A request to stop that a signal handler or another thread may make, and waiting that heeds it."""

from __future__ import annotations

import os
import select
import time


class StopRequestedError(Exception):
    """The stop came while something else was awaited. For control flow inside the client only."""


class Stop:
    """A flag with a file descriptor (an eventfd) that becomes readable once `request` was called."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.requested = False

    def request(self) -> None:
        """Ask for a clean end. Safe in a signal handler, from any thread, and more than once."""
        self.requested = True
        os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def close(self) -> None:
        """Give the descriptor back; no `request` may follow."""
        os.close(self._descriptor)


def wait(stop: Stop, descriptor: int, events: int, deadline: float) -> bool:
    """Wait for `events` (select.POLLIN, POLLOUT) on `descriptor` until `deadline`, in seconds of time.monotonic().

    Returns whether they came in time. After the deadline the answer is no even if data is there: else a peer that always
    has one more byte could keep its caller for ever. StopRequestedError when a stop was asked for first.
    """
    poll = select.poll()
    poll.register(stop.fileno(), select.POLLIN)
    poll.register(descriptor, events)
    # Rounded up: a wait that ends a little early would be a busy one.
    ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
    if stop.requested:
        raise StopRequestedError
    return bool(ready) and time.monotonic() <= deadline
