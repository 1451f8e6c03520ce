"""The matrix: what this kernel does with TOS, DSCP and ECN, a row a behaviour. As Markdown, for people and for docs/."""

from __future__ import annotations

import itertools
import platform
import re
from collections.abc import Iterator, Sequence

from qosctl.supervisor.doctor import probe_forwarding, probe_routing, probe_sockets, probe_tunnels
from qosctl.supervisor.doctor.matrix_row import MatrixRow
from qosctl.supervisor.doctor.probe_netns import ProbeNetns
from qosctl.supervisor.output.json_documents import Json


def behaviours() -> list[MatrixRow]:
    """Try everything. Only in a throw-away child."""
    laboratory = ProbeNetns()
    probes = (probe_routing, probe_sockets, probe_forwarding, probe_tunnels)
    return [row for module in probes for row in module.probe(laboratory)]


def kernel_name() -> str:
    """Return the kernel's version without what a builder put behind it; Debian's own where it hides the upstream one."""
    debian = re.search(r"Debian (\d+\.\d+\.\d+)", platform.version())
    return f"Linux {debian.group(1)} (Debian)" if debian else f"Linux {platform.release().partition('-')[0]}"


def markdown(rows: Sequence[MatrixRow]) -> Iterator[str]:
    """Yield the lines of the matrix."""
    yield f"## {kernel_name()}"
    for topic, group in itertools.groupby(rows, lambda row: row.topic):
        yield ""
        yield f"### {topic}"
        yield ""
        yield "| key | asked | IPv4 | IPv6 | agree | ECN bits | what it breaks |"
        yield "|---|---|---|---|---|---|---|"
        for row in group:
            agree = "yes" if row.families_agree else "**no**"
            cells = (f"`{row.key}`", row.what, row.ipv4, row.ipv6, agree, row.ecn or "no matter", row.breaks or "-")
            yield f"| {' | '.join(cells)} |"


def to_json(rows: Sequence[MatrixRow]) -> list[Json]:
    """Return the rows for machines."""
    return [
        {
            "key": row.key,
            "topic": row.topic,
            "asked": row.what,
            "ipv4": row.ipv4,
            "ipv6": row.ipv6,
            "families_agree": row.families_agree,
            "ecn": row.ecn,
            "breaks": row.breaks,
        }
        for row in rows
    ]
