"""A device's counters: per CPU in the kernel, summed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.abi import DEVICE_COUNTERS, OUTCOME_SLOTS
from qosctl.bpf.dscp import DSCP_COUNT, Dscp
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import syscall
from qosctl.bpf.outcome import Outcome

SHAPE = syscall.MapShape(syscall.MAP_TYPE_PERCPU_ARRAY, 4, DEVICE_COUNTERS.size, 1)


@dataclass(frozen=True)
class OuterTraffic:
    """Packets (GSO segments counted singly) and bytes on the wire, link header included."""

    packets: int
    bytes: int


@dataclass(frozen=True)
class DeviceCounters:
    """All counters of one device since it was first attached."""

    outcomes: Mapping[Outcome, int]
    outer: Mapping[Dscp, OuterTraffic]


def read(fd: int) -> DeviceCounters:
    """Sum the per-CPU counters behind `fd`."""
    if syscall.map_info(fd).shape != SHAPE:
        raise RefusedError("the counters were made by a qosctl of another layout", "qosctl detach --all, then attach again")
    cpus = possible_cpus()
    raw = syscall.map_lookup(fd, bytes(4), DEVICE_COUNTERS.size * cpus)
    if raw is None:
        raise OSError(2, "the counters map has no entry")
    sums = [sum(column) for column in zip(*DEVICE_COUNTERS.iter_unpack(raw), strict=True)]
    classes = sums[OUTCOME_SLOTS:]
    return DeviceCounters(
        outcomes={outcome: sums[outcome] for outcome in Outcome},
        outer={Dscp.of(n): OuterTraffic(classes[2 * n], classes[2 * n + 1]) for n in range(DSCP_COUNT)},
    )


def possible_cpus() -> int:
    """Return how many values a per-CPU lookup yields."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(ranges.rpartition(",")[2].rpartition("-")[2]) + 1
