"""Both clients through every fault, into docs/leaks.md: `python -m tests.leaks [WORD...]` for faults that hold a word."""

from __future__ import annotations

import fcntl
import sys
import tempfile
from pathlib import Path

from tests.lab import LabError, enter_sandbox, unwind_on_signals
from tests.leaks.clients import Client, OpenconnectClient, QosctlClient, UnheldClient
from tests.leaks.faults import AROUND, FAULTS, Fault
from tests.leaks.stage import Stage

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "leaks.md"
CLIENTS: tuple[type[Client], ...] = (QosctlClient, UnheldClient, OpenconnectClient)
_HEAD = """\
# What leaves outside of the tunnel

Everything belongs inside here: the server names no networks, IPv4 and IPv6, and vpnc-script sets the routes. The client's
machine has default routes of its own for both. A datagram of each leaves every 5 ms, to addresses that are reachable by the
tunnel and by those default routes. For each row of [faults.md](faults.md), and for what others do to the machine's
routes, a tap on the machine's wire counts datagrams (IPv4 + IPv6) outside of the tunnel, from the fault until the tunnel
carries again, or for 15 s. `python -m tests.leaks` writes this page; `make leaks` goes through all rows with qosctl, and
fails if one packet leaves. The figures of a row are of one run.

In brackets: the tunnel did not carry again. After an end that nobody wanted qosctl blocks what belonged inside
([kill-switch.md](kill-switch.md)); openconnect ends, and its traffic goes on in clear until somebody looks. A dash: not
tried, because it takes clocks that are shown to our client alone.

"""


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
        _write(name, cells)
    return 0


def _write(name: str, cells: dict[str, str]) -> None:
    """Put a row into the page, whose other rows stay; another process may be at it, too."""
    with PAGE.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rows = _rows(file.read()) | {name: cells}
        file.seek(0)
        file.truncate()
        file.write(_HEAD + _table(rows))


def _rows(page: str) -> dict[str, dict[str, str]]:
    """Read the table of a page."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    _, *kinds = lines[0]
    return {name: dict(zip(kinds, cells, strict=True)) for name, *cells in lines[2:]}


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


def _table(rows: dict[str, dict[str, str]]) -> str:
    head = ["fault", *(kind.name for kind in CLIENTS)]
    lines = [head, ["---"] * len(head)]
    for name in (", ".join(fault.rows) for fault in (*FAULTS, *AROUND)):
        lines.append([name, *(rows.get(name, {}).get(kind.name, "not measured") for kind in CLIENTS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
