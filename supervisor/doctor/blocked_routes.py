"""Whether destinations are blocked whose tunnel is gone."""

from __future__ import annotations

from collections.abc import Iterator

from qosctl.supervisor.doctor.finding import Finding, passed, warned
from qosctl.supervisor.kill_switch.blocked import blocked


def check() -> Iterator[Finding]:
    """Yield a finding for each tunnel that has left something blocked."""
    found = blocked()
    for each in found:
        yield warned(
            "blocked", f"{each}: the tunnel that had it inside is gone, and nobody asked for its end",
            "packets to there are answered `unreachable`, rather than leave in clear",
            "qosctl unblock, or connect again",
        )  # fmt: skip
    if not found:
        yield passed("blocked", "no tunnel that is gone has left anything blocked")
