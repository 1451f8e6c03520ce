"""The soak itself: traffic of three classes, a fault every few seconds, and what must stay true all along.

resident size within 10 %, as many descriptors as at the start, one thread, 0 mis-stamped records, 0 exceptions,
and packets flowing again after every fault
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.memory import resident_kb
from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.lab.wiretap import DATA, Wiretap
from tests.system.flowing import Flowing

ROUTER = "10.91.1.1"
CONFIGURATION = "dpd = 2\nrekey-time = 60\n"
CLASSES = (0, 34 << 2, 46 << 2 | 1, 8 << 2 | 3)
PAUSE_S = (2.0, 6.0)
RECOVERY_S = 40.0
WARM = 0.3
"""Share of the run after which memory counts: caches have filled."""


@dataclass
class Report:
    """What a soak has seen."""

    seconds: float = 0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)
    records: int = 0
    mis_stamped: int = 0
    unreadable: int = 0
    resident_kb: list[tuple[float, int]] = field(default_factory=list)
    descriptors: tuple[int, int] = (0, 0)
    threads: int = 0
    strange_lines: list[str] = field(default_factory=list)
    kept: bool = False

    @property
    def resident(self) -> tuple[int, int]:
        """Median resident size in kB of the first third after warming up, and of the last third."""
        warm = [size for at, size in self.resident_kb if at >= WARM * self.seconds]
        third = max(1, len(warm) // 3)
        return int(statistics.median(warm[:third])), int(statistics.median(warm[-third:]))


class Soak:
    """One run of `seconds`; the seed decides faults and weather."""

    def __init__(self, seed: int, seconds: float, *, loud: bool = False) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._seconds = seconds
        self._loud = loud
        self.report = Report(seconds=seconds)

    def run(self) -> Report:
        """Run; AssertionError when packets do not flow again after a fault."""
        with Line(CONFIGURATION) as line, line.attached():
            line.qosctl("passtos", "on")
            relay = Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=self._seed)
            with (
                Wiretap(line) as tap,
                relay,
                line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL) as connection,
                Flowing(line.client, line.server_namespace) as flow,
                Inside(line) as inside,
                self._mixing(inside),
            ):
                self._go(line, relay, tap, connection, flow)
        return self.report

    def _go(self, line: Line, relay: Relay, tap: Wiretap, connection: Connection, flow: Flowing) -> None:
        report = self.report
        began = time.monotonic()
        self._wait_for_dtls(line)
        first = self._descriptors(connection)
        faults: dict[str, Callable[[], None]] = {
            "server restarted": line.restart_server,
            "UDP blocked": lambda: self._for_a_while(relay, tap, udp=False),
            "NAT forgets": relay.rebind,
            "TLS reset": lambda: relay.set(tcp="reset"),
            "TLS stalls": lambda: self._for_a_while(relay, tap, tcp="stall"),
            "bad weather": lambda: self._for_a_while(
                relay, tap, loss=0.1, duplicate=0.05, corrupt=0.02, reorder=0.02, reorder_by=80, delay=5, jitter=10
            ),
            "large ones vanish": lambda: self._for_a_while(relay, tap, largest=1390),
        }
        while time.monotonic() < began + self._seconds:
            name = self._chance.choice(sorted(faults))
            report.faults[name] += 1
            self._say(f"{time.monotonic() - began:6.0f} s  {name}")
            faults[name]()
            report.recoveries_s.append(flow.wait(time.monotonic(), RECOVERY_S))
            self._watch(tap, connection, began, self._chance.uniform(*PAUSE_S))
            assert connection.process.poll() is None, connection.errors
        self._wait_for_dtls(line)
        flow.wait(time.monotonic(), RECOVERY_S)
        self._read(tap)
        report.kept = flow.tcp_works()
        report.descriptors = first, self._descriptors(connection)
        report.threads = len(list(Path(f"/proc/{connection.process.pid}/task").iterdir()))
        report.strange_lines = [line for line in connection.errors.splitlines() if not line.startswith("qosctl: ")]

    def _watch(self, tap: Wiretap, connection: Connection, began: float, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.5)
            self._read(tap)
            self.report.resident_kb.append((time.monotonic() - began, resident_kb(connection.process.pid)))

    def _read(self, tap: Wiretap) -> None:
        """Compare the outer DSCP of every record with the class of what is inside."""
        frames = tap._tunnel_frames()
        tap._capture.clear()
        for frame in frames:
            if frame.outgoing or frame.payload[:1] != bytes([DATA]):
                continue
            try:
                records = list(tap._records_in(frame))
            except LookupError:  # the server has not got to logging the keys of that handshake
                self.report.unreadable += 1
                continue
            for record in records:
                if record.inner is not None:
                    self.report.records += 1
                    self.report.mis_stamped += record.frame.dscp != record.inner.traffic_class >> 2 or frame.ecn != 0

    def _for_a_while(self, relay: Relay, tap: Wiretap, **weather: float | int | str | bool) -> None:
        fair: dict[str, float | int | str | bool] = {
            "udp": True, "tcp": "pass", "loss": 0.0, "duplicate": 0.0, "corrupt": 0.0, "reorder": 0.0, "delay": 0,
            "jitter": 0, "largest": 65535,
        }  # fmt: skip
        relay.set(**weather)
        end = time.monotonic() + self._chance.uniform(1, 8)
        while time.monotonic() < end:
            time.sleep(0.5)
            self._read(tap)
        relay.set(**{name: fair[name] for name in weather if name in fair})

    @contextlib.contextmanager
    def _mixing(self, inside: Inside) -> Iterator[None]:
        """Send packets of several classes, ECN fields and sizes beside the steady flow, now and then a burst."""
        stop = threading.Event()
        chance = random.Random(self._seed + 1)

        def mix() -> None:
            while not stop.wait(0.02):
                for _ in range(40 if chance.random() < 0.02 else 1):
                    payload = bytes(int(chance.random() * 1300))
                    with contextlib.suppress(OSError):  # no route or no room for a moment
                        inside.send(payload, chance.choice(CLASSES))

        thread = threading.Thread(target=mix, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _wait_for_dtls(self, line: Line) -> None:
        deadline = time.monotonic() + RECOVERY_S
        while not any(
            f["statistics"]["state"] == 2 for f in json.loads(line.qosctl("flows", "--json", check=False).stdout)["flows"]
        ):
            assert time.monotonic() < deadline, "DTLS does not come back"
            time.sleep(0.2)

    def _descriptors(self, connection: Connection) -> int:
        return len(list(Path(f"/proc/{connection.process.pid}/fd").iterdir()))

    def _say(self, words: str) -> None:
        if self._loud:
            print(words, file=sys.stderr)
