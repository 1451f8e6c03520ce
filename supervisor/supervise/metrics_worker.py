"""The process that answers scrapes: whatever comes in over HTTP meets one that can look, and load or change no program.

Its first line on stdin says where to serve, {"address", "port", "names"} in JSON; the end of stdin is its own. An address
that is taken is said once and tried again.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from prometheus_client import CollectorRegistry
from qosctl.bpf.errors import QosctlError
from qosctl.dtls.events import Say, Severity
from qosctl.metrics.listen import Listen
from qosctl.metrics.server import Endpoint
from qosctl.supervisor.exporter import only_look, registry
from qosctl.supervisor.output.log import Log

ARGV = (sys.executable, "-P", "-m", __name__)
RETRY_S = 10.0


def order(listen: Listen) -> str:
    """Return the line that has it serve there."""
    return json.dumps({"address": listen.address, "port": listen.port, "names": sorted(listen.names)}) + "\n"


class _MetricsWorker:
    """Serves until stdin ends or a signal comes."""

    def __init__(self, say: Say, metrics: CollectorRegistry) -> None:
        self._say = say
        self._metrics = metrics
        self._over = threading.Event()
        self._endpoint: Endpoint | None = None

    def run(self, listen: Listen) -> None:
        """Serve at `listen`."""
        said = ""
        while not self._over.is_set():
            try:
                endpoint = Endpoint(self._metrics, listen)
            except QosctlError as error:
                if str(error) != said:
                    said = str(error)
                    self._say(Severity.WARNING, f"metrics: {said}; trying again every {RETRY_S:.0f} s")
                self._over.wait(RETRY_S)
                continue
            with endpoint:
                self._endpoint = endpoint
                self._say(Severity.NOTICE, f"serving {endpoint.url}")
                if not self._over.is_set():
                    endpoint.run()
            return

    def end_with_stdin(self) -> None:
        """Wait until nobody holds the other end any more, and stop."""
        sys.stdin.read()
        self._over.set()
        if self._endpoint is not None:
            self._endpoint.stop()


def main() -> None:
    """Serve as the first line says."""
    asked = json.loads(sys.stdin.readline())
    listen = Listen(asked["address"], asked["port"], frozenset(asked["names"]))
    only_look()
    say = Log(sys.stderr, os.environ).say
    worker = _MetricsWorker(say, registry(say))
    threading.Thread(target=worker.end_with_stdin, name="stdin", daemon=True).start()
    worker.run(listen)


if __name__ == "__main__":
    main()
