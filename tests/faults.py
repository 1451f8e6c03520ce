"""Write docs/faults.md from what the system tests measured last: `python -m tests.faults`.

A row is declared here, and measured by a test that calls `note` (tests/system/flowing.py), which takes no other. A row that
was not measured since then stays as the page has it. The page is written with all rows or not at all: `python -m
tests.faults --run` runs their tests first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "build" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
DECLARED = (
    "30 % loss both ways, handshakes too",
    "a better route from another address, the old one works",
    "another local address and route",
    "cable pulled for 1 s, same address",
    "client killed, started again",
    "cookie expired, no password",
    "NAT forgets the UDP flow",
    "new keys (new-tunnel)",
    "new keys (ssl)",
    "no way to the server, and back",
    "path says it is too small for IPv6 (outer IPv4)",
    "path says it is too small for IPv6 (outer IPv6)",
    "path shrinks, and says so",
    "path swallows large packets",
    "path swallows what IPv6 must be able to send",
    "second client for the same device",
    "secret file that others can read",
    "server killed",
    "server restarted",
    "server restarted, cookie but no password",
    "session time-out",
    "stopped (SIGSTOP) until the server gave up",
    "suspended for 3 s",
    "suspended until the server gave up",
    "thrown out by the operator",
    "TLS dead (reset), DTLS alive",
    "TLS dead (stall), DTLS alive",
    "UDP blocked",
    "UDP blocked and open again while another command hangs",
    "UDP blocked both ways while we only receive",
    "UDP blocked from the start",
    "UDP blocked towards the server while packets come",
    "UDP blocked towards us while we only receive",
    "UDP open again",
)
"""All rows, in the order of the page."""
TESTS = (
    "test_network_faults.py",
    "test_server_faults.py",
    "test_one_way.py",
    "test_path_mtu.py",
    "test_small_path.py",
    "test_sleep.py",
    "test_bad_network.py",
    "test_second_start.py",
)
"""The files in tests/system that measure them."""
_HEAD = """\
# What goes wrong, and what becomes of it

Each row is a system test that injects the fault for real, on a real ocserv (in `tests/system`:
`test_network_faults.py`, `test_server_faults.py`, `test_one_way.py`, `test_path_mtu.py`, `test_small_path.py`,
`test_sleep.py`, `test_bad_network.py`, `test_second_start.py`); the figures of a row are of one run on a small virtual
machine that had other work besides. A datagram goes through the tunnel and back every 10 ms: *flows again* is how long
after the repair (or whatever the table says) the first one that was sent later came back, *lost* how many never did. *Kept*
says whether a TCP connection inside the tunnel lived through it. While there is no session, packets wait in the tunnel
device, 500 of them: that is why short outages lose nothing.

*Blocked* is an nftables rule on a router between client and server. *Suspended* is a client that is stopped, with clocks
as a suspended machine has them (the monotonic one stands still) and no network meanwhile; a machine that really sleeps
would take the server of the test with it. A fault in one direction takes longer to detect, because packets still arrive
from the other. The server's own timeouts are set to one minute in these tests, so they play no part.

What the user sees is on stderr, one line each (with a level where the journal reads it), and in `qosctl flows` and the
metrics (`qosctl_tunnel_state`, `qosctl_tunnel_reconnects_total` by reason).

| fault | what the user sees | flows again | counted from | lost | kept |
|---|---|---|---|---|---|
"""


def main(words: list[str]) -> int:
    """Write the page; without `--run`, from what was measured before."""
    if words == ["--run"]:
        MEASURED.unlink(missing_ok=True)
        files = [str(ROOT / "tests" / "system" / each) for each in TESTS]
        # A test that found something else than it should has noted what it found: the rows say whether all is there.
        subprocess.run([sys.executable, "-m", "pytest", "-q", *files], check=False)
    try:
        measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else []
        text = page(measured, before=PAGE.read_text(encoding="utf-8"))
    except MissingError as missing:
        print(f"{missing} (try: python -m tests.faults --run, as root)", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


class MissingError(Exception):
    """There are rows without figures: the page would be less than it was."""


def page(measured: list[dict[str, Any]], *, before: str) -> str:
    """Return the page anew: rows that were measured, the others as they are `before`. MissingError unless all are there."""
    return _HEAD + table(measured, before)


def table(measured: list[dict[str, Any]], before: str = "") -> str:
    """Return the page's rows. MissingError unless all that are declared are in one of the two; others are left out."""
    lines = {line.split("|")[1].strip(): f"{line}\n" for line in before.splitlines() if line.startswith("| ")}
    lines |= {row["fault"]: _line(row) for row in measured}
    missing = [fault for fault in DECLARED if fault not in lines]
    if missing:
        raise MissingError(f"not measured: {'; '.join(missing)}")
    return "".join(lines[fault] for fault in DECLARED)


def _line(row: dict[str, Any]) -> str:
    figures = (_seconds(row["seconds"]), row["since"], _count(row["lost"]), _yes(row["kept"]))
    return f"| {' | '.join((row['fault'], row['seen'], *figures))} |\n"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
