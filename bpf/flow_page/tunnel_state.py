"""What carries a tunnel's packets: the values of Statistic.STATE."""

from __future__ import annotations

import enum


class TunnelState(enum.IntEnum):
    """What carries the packets."""

    RECONNECTING = 0
    """Nothing: there is no session."""
    TLS = 1
    """Unmarked, that is."""
    DTLS = 2

    @property
    def label(self) -> str:
        """The name that metrics and `--json` use."""
        return self.name.lower()


def state_name(value: int) -> str:
    """Return what Statistic.STATE means; "unknown" for what no client of ours stores."""
    try:
        return TunnelState(value).label
    except ValueError:
        return "unknown"
