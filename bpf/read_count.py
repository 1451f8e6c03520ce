"""What is counted of tunnels of others that are followed, by pattern: each count, its metric, what it tells an operator.

The one place that says so. `struct follow_counters` in abi.h has the same counts in the same order; status, `top`,
`--json`, metrics, schemas and docs/operations.md take names and words from here. After a change here, `make figures` draws
the files that repeat them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class _Row:
    """What is to be known of one count.

    `metric` is its name without `_total`, `help` goes out with it, `watch` says when it is worth a look ("-" for never),
    and `word` is what `status` and `top` call it.
    """

    metric: str
    word: str
    help: str
    watch: str


class ReadCount(enum.Enum):
    """What programs that are followed have read and sent. The value of each is its label."""

    metric: str
    word: str
    help: str
    watch: str

    def __new__(cls, row: _Row) -> ReadCount:
        """Count them up."""
        member = object.__new__(cls)
        member._value_ = len(cls.__members__)
        member.metric, member.word, member.help, member.watch = row.metric, row.word, row.help, row.watch
        return member

    PACKETS = _Row(
        "qosctl_followed_read_packets", "packets read",
        "Packets that tunnels' programs have read from devices that are followed.",
        "standing still while the tunnel sends: its device is not followed, or passtos is off",
    )  # fmt: skip
    BATCHES = _Row(
        "qosctl_followed_batch_reads", "in batches",
        "Reads of more than one packet: what is in which datagram then is not known, and they are left alone.",
        "growing: the program has switched to batches (IFF_VNET_HDR)",
    )  # fmt: skip
    FORGOTTEN = _Row(
        "qosctl_followed_forgotten_packets", "never sent",
        "Packets that were read and made room for others before a datagram with them left.",
        "growing with the tunnel's traffic: another thread sends, or TLS does",
    )  # fmt: skip
    PASSED_OVER = _Row(
        "qosctl_followed_passed_over_packets", "sent otherwise",
        "Packets that were read and left in another way, or not at all: one behind them left as a datagram.",
        "much of it: the tunnel sends over TLS, or something drops its packets",
    )  # fmt: skip
    DTLS = _Row("qosctl_followed_dtls_packets", "sent over DTLS", "Packets that were found in DTLS records.", "-")
    OPENVPN = _Row("qosctl_followed_openvpn_packets", "in OpenVPN", "Packets that were found in datagrams of OpenVPN.", "-")
    BEYOND_WINDOW = _Row(
        "qosctl_followed_beyond_window_packets", "beyond a window",
        "Datagrams that left within 0.1 s of one with another DSCP and a number lower by 64 or more: where they overtake "
        "it, a receiver with a window of 64 drops it as a replay.",
        "growing, with a receiver whose window is 64: bulk may pay for priority",
    )  # fmt: skip

    @property
    def label(self) -> str:
        """The name that `--json` uses, and the field of Reads."""
        return self.name.lower()
