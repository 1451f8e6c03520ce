"""What becomes of a packet in the program: each way out, what it means, and what it tells an operator.

The one place that says so. `enum outcome` in abi.h has the same numbers (tests/bpf/program/test_abi.py compares them);
metrics, `status`, `top`, doctor, the JSON schemas, docs/operations.md and the dashboard take names and words from here.
After a change here, `make figures` draws the files that repeat them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fate(enum.Enum):
    """Outcomes by what they say of marking. Commands, queries and alerts speak of a whole fate, never of some of it."""

    MARKED = enum.auto()
    """A tunnel's record that leaves with the DSCP it should have."""
    MISSED = enum.auto()
    """A tunnel's record that should have been marked, and was not."""
    BY_POLICY = enum.auto()
    """A tunnel's record that the policy leaves alone."""
    NO_RECORD = enum.auto()
    """Left alone because no record that may be marked was found in it."""
    FOREIGN = enum.auto()
    """No tunnel's packet."""
    OFF = enum.auto()
    """Not looked at."""


@dataclass(frozen=True)
class _Row:
    """What is to be known of one outcome.

    `was` goes on from "the packet was"; `watch` says when a growing count is worth a look, "-" for never.
    """

    number: int
    fate: Fate
    was: str
    watch: str


class Outcome(enum.IntEnum):
    """Every way out of the program. A packet has exactly one; a GSO batch counts as its segments.

    Numbers are never reused: a new outcome takes the next free one of abi.OUTCOME_SLOTS, one that goes leaves its number
    unused.
    """

    _value_: int
    fate: Fate
    was: str
    watch: str

    def __new__(cls, row: _Row) -> Outcome:
        """Make the number the value."""
        member = int.__new__(cls, row.number)
        member._value_ = row.number
        member.fate, member.was, member.watch = row.fate, row.was, row.watch
        return member

    OFF = _Row(0, Fate.OFF, "not looked at: passtos is off", "passtos should be on")
    NOT_IP = _Row(1, Fate.FOREIGN, "neither IPv4 nor IPv6, or behind more than two VLAN tags", "-")
    NOT_UDP = _Row(2, Fate.FOREIGN, "of another protocol, ESP and AH included", "-")
    FRAGMENT = _Row(
        3, Fate.NO_RECORD, "part of a fragmented datagram, of which all parts are left alone alike",
        "at all: the tunnel's MTU is too large for the device",
    )  # fmt: skip
    IPV6_EXT_HEADERS = _Row(4, Fate.NO_RECORD, "IPv6 with more extension headers than are looked at", "at all")
    TRUNCATED = _Row(5, Fate.NO_RECORD, "shorter than its own headers say", "at all")
    NO_FLOW = _Row(6, Fate.FOREIGN, "UDP, but no tunnel of ours", "as much as the tunnels send")
    NOT_DTLS = _Row(7, Fate.NO_RECORD, "to the tunnel's peer, but no DTLS 1.2 record", "at all")
    NOT_DATA = _Row(
        8, Fate.NO_RECORD, "a handshake, alert, change of cipher or heartbeat, never marked",
        "much of it: a tunnel reconnects all the time",
    )  # fmt: skip
    CID_OR_DTLS13 = _Row(
        9, Fate.MISSED, "a record whose number cannot be read: connection id, or DTLS 1.3",
        "at all: the client and server agreed on something qosctl does not offer",
    )  # fmt: skip
    PARTIAL_RECORD = _Row(10, Fate.MISSED, "a record longer than its datagram", "at all")
    MULTIPLE_RECORDS = _Row(11, Fate.MISSED, "several records in a datagram", "at all")
    NO_MARK = _Row(
        12, Fate.MISSED, "a tunnel's, with no mark or another record's under its number", "beyond a few at a reconnect"
    )
    POLICY_LEAVE = _Row(13, Fate.BY_POLICY, "left alone as the policy says", "the policy should not say so")
    UNCHANGED = _Row(
        14, Fate.MARKED, "a tunnel's, and carried the right DSCP already",
        "all traffic, and `stamped` none: nothing inside is marked",
    )  # fmt: skip
    STAMPED = _Row(15, Fate.MARKED, "marked: the outer DSCP was written", "-")
    WRITE_FAILED = _Row(
        16, Fate.MISSED, "right, but the kernel would not make its header writable", "at all: the machine is out of memory"
    )
    UNMATCHED = _Row(
        17, Fate.NO_RECORD, "a program's that is followed, and fits no packet that it has read: its own talk, mostly",
        "with the tunnel's traffic: another thread sends, or the cipher is none that is known",
    )  # fmt: skip
    AMBIGUOUS = _Row(
        18, Fate.MISSED, "a program's that is followed, and may be one of several packets that it has read",
        "beyond some after `follow`, or after a turn over TLS",
    )  # fmt: skip

    @property
    def label(self) -> str:
        """The name that metrics and `--json` use."""
        return self.name.lower()


def outcomes_of(*fates: Fate) -> frozenset[Outcome]:
    """Return the outcomes of these fates."""
    return frozenset(outcome for outcome in Outcome if outcome.fate in fates)
