"""What the tests try briefly, at full length and with the figures: python -m tests.endurance [PART...]

records   a million records of four mixed classes in batches, over IPv4 and again over IPv6: each opened and compared
kills     killed 50 times at random moments under load: no packet unmarked
flaps     a device deleted and made 200 times in a minute: attached at the end, nothing left behind, CPU
repair    clsact deleted 20 times: how long until our program is back
idle      memory of the supervisor and its exporter, and their CPU while nothing happens but scrapes
scrape    how long a scrape takes with 1,000 flows of four classes each
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued, backlog_word, write_classes
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab import enter_sandbox, unwind_on_signals
from tests.lab.inside import Inside
from tests.lab.memory import resident_kb
from tests.lab.testbed import Line
from tests.lab.wire import NEAR, Stand, devices, stand
from tests.lab.wiretap import Wiretap
from tests.supervisor.supervise.load import loaded
from tests.supervisor.supervise.running import Supervised
from tests.system.every_record import account

PORT = 24740
CONFIG = f'interfaces = ["{NEAR}"]\npasstos = true\n'
_CLASSES = (DF, EF, Dscp.parse("AF41"), Dscp.parse("CS1"))
METRICS = f'[metrics]\nlisten = "{PORT}"\n'


@contextmanager
def supervised(config: str) -> Iterator[tuple[Stand, Supervised]]:
    with stand() as built, tempfile.TemporaryDirectory() as where, Supervised(built.sender, Path(where), config) as running:
        yield built, running


def records(count: int = 1_000_000) -> str:
    """Send classes that change from packet to packet, and compare each outer DSCP with the inner one."""
    rows = []
    for outer in (4, 6):
        started = time.monotonic()
        with Line() as line, line.attached(), Wiretap(line) as tap, Inside(line) as inside:
            line.qosctl("passtos", "on")
            with line.connected(outer) as client:
                found = account(line, client, tap, inside, count, seed=outer)
        assert (found.records, found.mistakes, found.examples) == (count, {}, [])
        rows.append(f"outer IPv{outer}: {found}, {time.monotonic() - started:.0f} s in all")
    return "\n        ".join(rows)


def kills(times: int = 50) -> str:
    """Kill it and its worker, each time with another hook wanted."""
    chance = random.Random(times)
    with supervised(CONFIG) as (built, supervisor), loaded(built) as load:
        supervisor.killed_often(times, CONFIG, chance, pause_s=1.5)
        assert devices() == {NEAR: DeviceState.ATTACHED}
        supervisor.start()
    unmarked = load.unmarked()
    assert unmarked == 0
    return f"{times} kills, {load.sent} packets, {unmarked} unmarked, {load.lost} lost to the kernel making clsact"


def flaps(times: int = 200, seconds: float = 60) -> str:
    """Delete a device and make it anew, evenly over a minute."""
    with supervised(CONFIG.replace(NEAR, "lan*") + 'hook = "clsact"\n') as (built, supervisor):
        before, cpu_before, started = supervisor.descriptors, supervisor.cpu_s, time.monotonic()
        for n in range(times):
            built.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
            time.sleep(max(0.0, started + (n + 1) * seconds / times - time.monotonic()))
            built.sender.run(["ip", "link", "del", "lan-1"])
        took, cpu = time.monotonic() - started, supervisor.cpu_s - cpu_before
        built.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
        calm = supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})
        supervisor.wait(lambda: supervisor.descriptors == before)
        assert len(status().devices) == 1
        folders = sorted(path.name for path in (folder() / "devices").iterdir())
        assert len(folders) == 1, folders
        attaches = sum(": attached (clsact)" in line for line in supervisor.log)
        return (
            f"{times} flaps in {took:.0f} s: attached {calm:.1f} s after the last; {cpu:.1f} s CPU with its workers "
            f"({cpu / took:.1%}), {attaches} attaches, {supervisor.memory_kb / 1000:.0f} MB"
        )


def repair(times: int = 20) -> str:
    """Delete clsact and look until our filter is back; 31 s of calm are skipped by a reload."""
    took = []
    with supervised(CONFIG + 'hook = "clsact"\n') as (built, supervisor):
        for _ in range(times):
            supervisor.reload()
            time.sleep(0.5)
            built.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
            took.append(supervisor.wait(lambda: clsact.our_program(built.index) is not None))
    return f"clsact deleted {times} times: back in {statistics.median(took) * 1e3:.0f} ms, at most {max(took) * 1e3:.0f} ms"


def idle(seconds: float = 60, scrape_every: float = 15) -> str:
    """Wait, with scrapes as Prometheus makes them by default."""
    with supervised(CONFIG + METRICS) as (built, supervisor):
        _scrape(built, supervisor)
        before, started = supervisor.cpu_s, time.monotonic()
        while time.monotonic() - started < seconds:
            time.sleep(scrape_every)
            _scrape(built, supervisor)
        cpu = (supervisor.cpu_s - before) / (time.monotonic() - started)
        memory = supervisor.memory_kb / 1000
        assert max(map(resident_kb, supervisor.pids)) < 60_000
        assert memory < 80
        return f"{memory:.0f} MB, {cpu:.2%} CPU in {seconds:.0f} s with a scrape every {scrape_every:.0f} s"


def scrape(flows: int = 1000, times: int = 50) -> str:
    """Scrape over HTTP, as Prometheus does."""
    with ExitStack() as stack:
        built, supervisor = stack.enter_context(supervised(CONFIG + METRICS))
        with open_state() as state:
            for n in range(flows):
                ring = Ring(Owner(os.getpid(), time.time_ns(), f"tun{n % 8}", "vpn.example"))
                write_classes(
                    ring.page, dict.fromkeys(_CLASSES, ClassUse(n, 1000 * n, n, 1000 * n, backlog_word(Queued(n, n))))
                )
                stack.callback(ring.close)
                state.flows.add(FlowKey((f"10.92.0.{1 + n % 200}", 1024 + n), ("10.92.0.2", 443)), ring)
        _scrape(built, supervisor)
        took, before = [], supervisor.cpu_s
        for _ in range(times):
            started = time.perf_counter()
            answer = _scrape(built, supervisor)
            took.append(time.perf_counter() - started)
        cpu = (supervisor.cpu_s - before) / times
        assert f'qosctl_flows{{owner="alive"}} {flows}.0' in answer
        return (
            f"{flows} flows: {statistics.median(took) * 1e3:.1f} ms a scrape (median of {times}), {cpu * 1e3:.1f} ms CPU, "
            f"{supervisor.memory_kb / 1000:.0f} MB"
        )


def _scrape(built: Stand, supervisor: Supervised) -> str:
    supervisor.wait(lambda: any("serving" in line for line in supervisor.log))
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    try:
        with built.sender.entered():
            connection.connect()
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (records, kills, flaps, repair, idle, scrape)}


def main() -> None:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser(
        prog="tests.endurance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], metavar="PART")
    enter_sandbox()
    unwind_on_signals()
    for name in parser.parse_args().part or list(PARTS):
        print(f"{name:8}{PARTS[name]()}", flush=True)


if __name__ == "__main__":
    main()
