"""The programs there are, and what each hooks into: the one place that names them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ProgramKind(enum.Enum):
    """What the kernel takes a program for (enum bpf_prog_type)."""

    TC = "SCHED_CLS"
    RAW_TRACEPOINT = "RAW_TRACEPOINT"


@dataclass(frozen=True)
class Program:
    """One program: the file it is in, the function that the kernel calls, and what it is loaded as."""

    source: str
    entry: str
    kind: ProgramKind


EGRESS = Program("egress.c", "qosctl_egress", ProgramKind.TC)
"""At the egress of a device by which outer packets leave: stamps them."""

TUN_READS = Program("tun_reads.c", "qosctl_tun_reads", ProgramKind.RAW_TRACEPOINT)
"""At the tracepoint that a read from a TUN device passes: notes which packets a program of others is about to send."""

CARRY = Program("carry.c", "qosctl_carry", ProgramKind.TC)
"""At the egress of a WireGuard device: puts a packet's class into its hash, which stays when it is encrypted."""

TUN_READS_TRACEPOINT = "skb_copy_datagram_iovec"
