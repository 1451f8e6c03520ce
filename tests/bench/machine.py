"""The machine that the bench runs on: what it is, and how a core of it is shared with something else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.rows import Machine
from tests.lab import end

_SHARED_CORE = 1
"""Where the client and the busy loop meet; the other core is left to the server and the loads."""
_BUSY_CORE = 0
_LEAST_URGENT = 19


def described() -> dict[str, Any]:
    """Return the processor's name, its cores, and its caches by level, as the kernel says."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    caches = {}
    for each in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((each / name).read_text().strip() for name in ("level", "type", "size"))
        caches[f"L{level} {kind.lower()}"] = size
    return {"cpu": names[0] if names else "unknown", "cores": os.cpu_count(), "cache": caches}


@contextlib.contextmanager
def sharing(machine: Machine, client: int) -> Iterator[None]:
    """Run the block with the client's process on a machine that is as the row says."""
    if machine == "own":
        yield
        return
    core = _BUSY_CORE if machine == "busy core" else _SHARED_CORE
    busy = subprocess.Popen([sys.executable, "-I", "-c", "while True: pass"], text=True, process_group=0)
    try:
        os.sched_setaffinity(busy.pid, {core})
        if machine != "busy core":
            for thread in Path(f"/proc/{client}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _LEAST_URGENT if machine == "nice 19" else 0)
        yield
    finally:
        end(busy)
