"""The Python mirror of abi.h: limits and struct formats, in native byte order and alignment. `outcome` has the outcomes.

tests/bpf/program/test_abi.py compiles abi.h and compares every number here with the compiler's.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

from qosctl.bpf.dscp import DSCP_COUNT, Dscp

LAYOUT_VERSION = 2
POLICY_BANKS = 2
FLOW_SLOTS_LOG2 = 15
FLOW_SLOTS = 1 << FLOW_SLOTS_LOG2
FLOW_PROBES = 16
FLOW_HASH_FIRST = 0x9E3779B97F4A7C15
FLOW_HASH_SECOND = 0xC2B2AE3D27D4EB4F
RING_WORDS = 8192
FLOW_INFO_WORDS = 512
OUTCOME_SLOTS = 48
FOLLOW_PATTERNS = 32
REPLAY_WINDOW = 64
QUEUE_ENTRIES = 64
QUEUES = 4096
UDP_PORTS = 65536
PORT_ELSEWHERE = UDP_PORTS
CARRIERS = 65536
CARRIED_FLOW_BITS = 12
CARRIED_CODES = DSCP_COUNT << CARRIED_FLOW_BITS

WORD = struct.Struct("=Q")
CONTROL = struct.Struct("=IIII")  # layout, passtos, policy_bank, generation
POLICY_ENTRY = struct.Struct("=BBBBI")  # action, outer_dscp, set_priority, reserved, priority
FLOW_SLOT = struct.Struct("=16s16sHHI")  # source, destination, source_port, destination_port (network order), state

_NUMBER_MASK = (1 << 56) - 1


class PolicyAction(enum.IntEnum):
    """What the policy says of one inner class."""

    LEAVE = 0
    STAMP = 1


class FlowState(enum.IntEnum):
    """What a slot holds."""

    EMPTY = 0
    USED = 1
    REMOVED = 2


# outcome slots, then (packets, bytes) for each outer DSCP
DEVICE_COUNTERS = struct.Struct(f"={OUTCOME_SLOTS}Q{2 * DSCP_COUNT}Q")
FOLLOW_PATTERN = struct.Struct("=2Q2QII")  # name, mask, since, ways
FOLLOW_COUNTERS = struct.Struct("=7Q")  # reads, batches, forgotten, passed_over, dtls, openvpn, beyond_window
READ_QUEUE = struct.Struct(f"=Q18I2Q2I{REPLAY_WINDOW}Q{QUEUE_ENTRIES}Q")  # of the kernel alone
CARRIED = struct.Struct(f"={4 * UDP_PORTS}s{4 * CARRIERS}s{2 * CARRIED_CODES}s")  # device_at, port_of, given_at


class FollowWay(enum.IntFlag):
    """How the class of what is inside comes outside."""

    READS = 1
    """By what the tunnel's program has read."""
    HASH = 2
    """In the packet's own hash, through the kernel."""


def mark_word(number: int, dscp: Dscp) -> int:
    """Return the ring word that gives the record `number` (epoch << 48 | sequence) the class `dscp`."""
    return (number & _NUMBER_MASK) << 8 | dscp.value


def write_marks(marks: memoryview, numbers: Iterable[int], dscp: Dscp) -> None:
    """Store the `mark_word` of each record, all of one class, in its place in the ring (format "Q", RING_WORDS)."""
    value = dscp.value
    for number in numbers:  # mark_word written out: every packet of a tunnel passes here
        marks[number % RING_WORDS] = (number & _NUMBER_MASK) << 8 | value
