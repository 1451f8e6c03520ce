"""How much memory the processes that stay take. The figures go to build/sizes.json; the bound is only a fence.

pytest -s tests/system/test_sizes.py
"""

import http.client
import json
from pathlib import Path

from tests.lab.inside import Inside
from tests.lab.memory import children, resident_kb, together_kb
from tests.lab.testbed import Line
from tests.supervisor.supervise.running import Supervised

SIZES = Path(__file__).parents[2] / "build" / "sizes.json"
FENCE_MB = 100
PACKETS = 2000
PORT = 24741
_BURST = 40  # which the server's socket holds


def _note(**processes: int) -> float:
    """Write down what each takes and what all take together, which is returned, in units of 1,000,000 bytes."""
    kb = {name: resident_kb(pid) for name, pid in processes.items()}
    kb["_and_".join(processes)] = together_kb(*processes.values())
    megabytes = {f"{name}_mb": round(size * 1024 / 1e6, 1) for name, size in kb.items()}
    SIZES.parent.mkdir(exist_ok=True)
    before = json.loads(SIZES.read_text()) if SIZES.exists() else {}
    SIZES.write_text(json.dumps({**before, **megabytes}, indent=2) + "\n")
    print(megabytes)
    return list(megabytes.values())[-1]


def test_a_tunnel_after_traffic_of_several_classes(attached: Line, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection:
        for start in range(0, PACKETS, _BURST):
            for number in range(start, start + _BURST):
                inside.send(bytes(1200), number % 64 << 2)
            inside.arrived(_BURST, timeout=1)
        assert _note(client=connection.process.pid, helper=connection.helper) < FENCE_MB


def test_a_supervisor_after_some_scrapes(line: Line, tmp_path: Path) -> None:
    config = f'interfaces = ["{line.device}"]\n[metrics]\nlisten = "{PORT}"\n'
    try:
        with Supervised(line.client, tmp_path, config) as supervisor:
            supervisor.wait(lambda: any("serving" in said for said in supervisor.log))
            for _ in range(5):
                scrape = http.client.HTTPConnection("127.0.0.1", PORT)
                with line.client.entered():
                    scrape.connect()
                scrape.request("GET", "/metrics")
                assert b"qosctl_program_attached" in scrape.getresponse().read()
                scrape.close()
            (exporter,) = children(supervisor.process.pid)
            assert _note(supervisor=supervisor.process.pid, exporter=exporter) < FENCE_MB
    finally:
        line.qosctl("detach", "--all")
