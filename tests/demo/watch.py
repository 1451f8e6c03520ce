"""What `qosctl status` and the metrics endpoint say after all this."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.demo import terminal
from tests.demo.stage import Stage
from tests.lab import LabError, end
from tests.lab.qosctl import COMMAND

_PORT = 9472


@dataclass(frozen=True)
class Scrape:
    """What the endpoint served, and the memory it took for that."""

    text: str
    resident_mb: float


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
            return Scrape(answer.read().decode(), resident_mb(endpoint.pid))
    finally:
        end(endpoint)


def resident_mb(pid: int) -> float:
    """Return the resident size of a process in MB (10^6 bytes)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return round(kib * 1024 / 1e6, 1)


def samples(text: str) -> str:
    """Return our samples, of those for each DSCP only EF's, without zeros."""
    lines = [line for line in text.splitlines() if line.startswith("qosctl_") and not line.endswith((" 0", " 0.0"))]
    return "\n".join(line for line in lines if "dscp=" not in line or 'dscp="EF"' in line)
