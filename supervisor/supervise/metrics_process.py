"""The supervisor's metrics endpoint: a separate process with few privileges (metrics_worker.py).

Scrapes and repairs never wait for each other. Marking comes first: when the process cannot start, or ends, that is logged
and tried again, and the rest goes on.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from typing import Self

from qosctl.dtls.events import Say, Severity
from qosctl.metrics.listen import Listen
from qosctl.supervisor.supervise.metrics_worker import ARGV, RETRY_S, order

_END_S = 5.0
"""How long it may take to finish what it answers."""


class MetricsProcess:
    """Serves at the address last asked for. Use it in a `with`."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._listen: Listen | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def serve(self, listen: Listen | None) -> None:
        """Serve there from now on, None for nowhere; nothing happens where that is so already."""
        if listen == self._listen:
            return
        self.close()
        self._listen = listen
        if listen is not None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(listen, self._stop), name="metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._stop.set()
        if self._process is not None:
            _end(self._process)
        if self._thread is not None:
            self._thread.join()
        self._thread = self._process = self._listen = None

    def _run(self, listen: Listen, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                # A session of its own: whoever stops us by Ctrl-C stops the one that we then end.
                process = subprocess.Popen(
                    ARGV, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
                )
            except OSError as error:  # no memory or no process to be had
                self._say(Severity.WARNING, f"metrics: {error.strerror}; trying again in {RETRY_S:.0f} s")
                stop.wait(RETRY_S)
                continue
            self._process = process
            _tell(process, order(listen))
            if stop.is_set():
                _end(process)
            status = process.wait()
            _end(process)
            if status and not stop.is_set():
                self._say(Severity.WARNING, f"metrics: what serves them has ended; again in {RETRY_S:.0f} s")
            stop.wait(RETRY_S if status else 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it has ended already
        process.stdin.write(line)
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Let it end, or end it."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
