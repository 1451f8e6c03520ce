"""A terminal of its own for a command, with somebody who types."""

from __future__ import annotations

import os
import pty
import re
import select
import termios
import time
from collections.abc import Sequence
from typing import Self

from tests.lab import Namespace

_LOCAL_FLAGS = 3  # of tcgetattr
_READ_BYTES = 4096


class Terminal:
    """Runs `argv` in `namespace` as a person would: leaving the block closes the window, and ends what is left."""

    def __init__(self, namespace: Namespace, argv: Sequence[str]) -> None:
        self._namespace = namespace
        self._argv = argv
        self.shown = b""
        self._status: int | None = None

    def __enter__(self) -> Self:
        with self._namespace.entered():
            self.pid, self._ours = pty.fork()
            if not self.pid:
                try:
                    os.execv(self._argv[0], list(self._argv))
                finally:
                    os._exit(127)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._status is None and self.wait(5) is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)

    @property
    def echoes(self) -> bool:
        """Whether what is typed is shown."""
        return bool(termios.tcgetattr(self._ours)[_LOCAL_FLAGS] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def wait_for(self, text: bytes, timeout: float = 20) -> None:
        """Wait until `text` is on the screen."""
        deadline = time.monotonic() + timeout
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self._read(0.1)

    def wait(self, timeout: float) -> int | None:
        """Wait for the end; the exit status, negative for a signal, or None while it runs."""
        deadline = time.monotonic() + timeout
        while self._status is None and time.monotonic() < deadline:
            self._read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self._read(0.02)
        return self._status

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        return [line for line in re.split(r"\r?\n", self.shown.decode(errors="replace")) if line]

    def close(self) -> None:
        """Close the window: whoever runs in it gets SIGHUP."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def _read(self, patience: float) -> None:
        if self._ours < 0:
            time.sleep(patience)
            return
        if select.select([self._ours], [], [], patience)[0]:
            try:
                self.shown += os.read(self._ours, _READ_BYTES)
            except OSError:  # nobody is at the other end any more
                time.sleep(patience)
