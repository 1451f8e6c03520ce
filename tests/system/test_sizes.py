"""How much memory the two processes that stay take. The figures go to build/sizes.json; the bound is only a fence."""

import json
import re
import subprocess
from pathlib import Path

from tests.lab.qosctl import COMMAND
from tests.system.inside import Inside
from tests.system.line import Line

SIZES = Path(__file__).parents[2] / "build" / "sizes.json"
FENCE_MB = 100
PACKETS = 2000
_BURST = 40  # which the server's socket holds


def _resident_mb(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return round(int(found[1]) / 1024, 1)


def _note(name: str, megabytes: float) -> None:
    SIZES.parent.mkdir(exist_ok=True)
    sizes = json.loads(SIZES.read_text()) if SIZES.exists() else {}
    SIZES.write_text(json.dumps({**sizes, name: megabytes}, indent=2) + "\n")
    print(f"{name}: {megabytes} MB")


def test_connect_after_traffic_of_several_classes(attached: Line, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection:
        for start in range(0, PACKETS, _BURST):
            for number in range(start, start + _BURST):
                inside.send(bytes(1200), number % 64 << 2)
            inside.arrived(_BURST, timeout=1)
        size = _resident_mb(connection.process.pid)
    _note("connect_rss_mb", size)
    assert size < FENCE_MB


def test_metrics_after_some_scrapes(attached: Line) -> None:
    process = attached.client.popen(
        [str(COMMAND), "metrics", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("serving ").strip()
        scrape = f"import urllib.request; print(len(urllib.request.urlopen({url!r}).read()))"
        for _ in range(5):
            assert int(attached.client.run(["python3", "-c", scrape]).stdout) > 0
        size = _resident_mb(process.pid)
    finally:
        process.terminate()
        assert process.wait(10) == 0
    _note("metrics_rss_mb", size)
    assert size < FENCE_MB
