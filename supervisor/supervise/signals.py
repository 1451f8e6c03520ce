"""Signals as something a loop can wait for: a descriptor that is readable when one has come."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType
from typing import Self

_STOP = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGHUP, SIGINT and SIGTERM while the `with` lasts; main thread only."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._came: set[int] = set()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._reader.fileno()

    def take(self) -> tuple[bool, bool]:
        """Return whether a reload and whether an end was asked for since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        came, self._came = self._came, set()
        return signal.SIGHUP in came, bool(came.intersection(_STOP))

    def __enter__(self) -> Self:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGHUP, *_STOP)}
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came.add(number)
