"""Both clients through every fault, into docs/leaks.md: `python -m tests.leaks [WORD...]` for faults that hold a word."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.lab import LabError, enter_sandbox, unwind_on_signals
from tests.leaks.clients import Client
from tests.leaks.faults import AROUND, FAULTS, Fault
from tests.leaks.page import CLIENTS, put
from tests.leaks.stage import Stage


def main(words: list[str]) -> int:
    """Measure, and write the page."""
    enter_sandbox()
    unwind_on_signals()
    for fault in (*FAULTS, *AROUND):
        name = ", ".join(fault.rows)
        if words and not any(word in name for word in words):
            continue
        cells = {kind.name: _measure(kind, fault) for kind in CLIENTS}
        print(name, cells, flush=True)
        put(name, cells)
    return 0


def _measure(kind: type[Client], fault: Fault) -> str:
    """Return the datagrams that left outside, IPv4 and IPv6, or why there is no such number."""
    if fault.suspends and not kind.can_be_suspended:
        return "-"
    with tempfile.TemporaryDirectory() as folder, Stage(kind, Path(folder), fault.server) as stage:
        try:
            fault.happen(stage)
        except (AssertionError, LabError) as error:
            return f"? {error}"[:60].replace("\n", " ")
        counts = f"{stage.outcome.outside[4]} + {stage.outcome.outside[6]}"
        counts = "0" if counts == "0 + 0" else counts
        return counts if stage.outcome.again else f"({counts})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
