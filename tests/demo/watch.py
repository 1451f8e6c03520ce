"""What `qosctl status` and the metrics endpoint say after all this."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from tests.demo import terminal
from tests.demo.stage import Stage
from tests.lab import LabError, end
from tests.lab.memory import resident_kb
from tests.lab.qosctl import COMMAND

_PORT = 9472


@dataclass(frozen=True)
class Scrape:
    """What the endpoint served, and the memory it took for that."""

    text: str
    resident_kb: int


def scrape(stage: Stage) -> Scrape:
    """Start the endpoint on the client, scrape it once and end it."""
    client = stage.net.client
    terminal.command(f"qosctl metrics --listen 127.0.0.1:{_PORT} &")
    endpoint = client.popen([str(COMMAND), "metrics", "--listen", f"127.0.0.1:{_PORT}"])
    try:
        if not client.wait_for_listener(_PORT, endpoint):
            raise LabError(f"qosctl metrics does not listen, status {endpoint.poll()}")
        terminal.command(f"curl -s http://127.0.0.1:{_PORT}/metrics | grep ^qosctl_")
        with client.entered(), urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics", timeout=5) as answer:
            return Scrape(answer.read().decode(), resident_kb(endpoint.pid))
    finally:
        end(endpoint)


def samples(text: str) -> str:
    """Return our samples, of those for each DSCP only EF's, without zeros."""
    lines = [line for line in text.splitlines() if line.startswith("qosctl_") and not line.endswith((" 0", " 0.0"))]
    return "\n".join(line for line in lines if "dscp=" not in line or 'dscp="EF"' in line)
