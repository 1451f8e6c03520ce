"""Write docs/faults.md from what the system tests measured last: `python -m tests.faults`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "build" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
_HEAD = """\
# What goes wrong, and what becomes of it

Each row is a system test that injects the fault for real, on a real ocserv (`tests/system/test_staying_*.py`,
`test_one_way.py`, `test_path_mtu.py`, `test_small_path.py`, `test_sleep.py`, `test_bad_network.py`,
`test_second_start.py`); the figures are of one run on a small virtual machine. A datagram goes through the tunnel and
back every 10 ms: *flows again* is how long after the repair (or whatever the table says) the first one that was sent
later came back, *lost* how many never did. *Kept* says whether a TCP connection inside the tunnel lived through it. While
there is no session, packets wait in the tunnel device, 500 of them: that is why short outages lose nothing.

*Blocked* is an nftables rule on a router between client and server. *Suspended* is a client that is stopped, with clocks
as a suspended machine has them (the monotonic one stands still) and no network meanwhile; a machine that really sleeps
would take the server of the test with it. Where a fault leaves UDP dead in one direction only, it takes longer to
believe: the other direction shows that the channel is not simply gone. The server's own time-outs are a minute there, so
it is not they that help.

What the user sees is on stderr, one line each (with a level where the journal reads it), and in `qosctl flows` and the
metrics (`qosctl_tunnel_state`, `qosctl_tunnel_reconnects_total` by reason).

| fault | what the user sees | flows again | counted from | lost | kept |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Write the page."""
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        f"| {row['fault']} | {row['seen']} | {_seconds(row['seconds'])} | {row['since']} | {_count(row['lost'])} "
        f"| {_yes(row['kept'])} |\n"
        for row in sorted(rows, key=lambda row: row["fault"].lower())
    ]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(_HEAD + "".join(lines), encoding="utf-8")
    return 0


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
