"""docs/leaks.md, which holds its own results: rows that are not measured again stay as they are."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path

from tests.figures.page import Cells, table
from tests.leaks.clients import Client, OpenconnectClient, QosctlClient, UnheldClient
from tests.leaks.faults import AROUND, FAULTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "leaks.md"
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


def names() -> list[str]:
    """Return the rows, in the order of the page."""
    return [", ".join(fault.rows) for fault in (*FAULTS, *AROUND)]


def put(name: str, cells: Cells) -> None:
    """Put a row into the page, whose other rows stay; another process may be at it, too."""
    with PAGE.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = page(table(file.read()) | {name: cells})
        file.seek(0)
        file.truncate()
        file.write(text)


def page(known: Mapping[str, Cells]) -> str:
    """Return the page with these rows; what is not among them was not measured."""
    head = ["fault", *(kind.name for kind in CLIENTS)]
    lines = [head, ["---"] * len(head)]
    for name in names():
        lines.append([name, *(known.get(name, {}).get(kind.name, "not measured") for kind in CLIENTS)])
    return _HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines)
