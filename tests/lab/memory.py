"""How much memory processes take: proc_pid_status(5), proc_pid_smaps(5)."""

from __future__ import annotations

import re
from pathlib import Path


def resident_kb(pid: int) -> int:
    """Return the resident size of a process in units of 1,024 bytes."""
    return _size(Path(f"/proc/{pid}/status"), "VmRSS")


def together_kb(*pids: int) -> int:
    """Return what processes take together, where pages that several share are parted among them."""
    return sum(_size(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids)


def children(pid: int) -> list[int]:
    """Return the processes that a process has begun, by whichever thread."""
    return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]


def _size(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return int(found[1])
