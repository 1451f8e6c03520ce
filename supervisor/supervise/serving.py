"""The metrics endpoint inside the supervisor: a thread of its own, so that scrapes and repairs never wait for each other.

Marking comes first: an address that is taken is said once and tried again, and the rest goes on.
"""

from __future__ import annotations

import threading
from typing import Self

from qosctl.bpf.errors import QosctlError
from qosctl.dtls.events import Say, Severity
from qosctl.metrics.listen import Listen
from qosctl.metrics.server import Endpoint
from qosctl.supervisor.exporter import registry

RETRY_S = 10.0


class Serving:
    """Serves at the address last asked for. Use it in a `with`."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._registry = registry(say)
        self._listen: Listen | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._endpoint: Endpoint | None = None

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
        if self._endpoint is not None:
            self._endpoint.stop()
        if self._thread is not None:
            self._thread.join()
        self._thread = self._endpoint = self._listen = None

    def _run(self, listen: Listen, stop: threading.Event) -> None:
        said = ""
        while not stop.is_set():
            try:
                endpoint = Endpoint(self._registry, listen)
            except QosctlError as error:
                if str(error) != said:
                    said = str(error)
                    self._say(Severity.WARNING, f"metrics: {said}; trying again every {RETRY_S:.0f} s")
                stop.wait(RETRY_S)
                continue
            with endpoint:
                self._endpoint = endpoint
                said = ""
                self._say(Severity.NOTICE, f"serving {endpoint.url}")
                if not stop.is_set():
                    endpoint.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
