"""Readings turned into metric families. Each function takes what was read, or None where that part could not be read:
then the families are there without samples, so that their names and helps are the same at each scrape.

Labels are devices, outcomes, classes and hooks: few, and none of them an address.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from qosctl.bpf.abi import FLOW_SLOTS
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Outcome
from qosctl.metrics.readings import Device

_NANOSECONDS = 1_000_000_000


def switch_families(passtos: bool | None) -> Iterator[Metric]:
    """The switch."""
    yield GaugeMetricFamily(
        "qosctl_passtos_enabled",
        "1 while the DSCP of inner packets is copied to their outer packets; 0 when switched off or nothing is attached.",
        value=passtos,
    )


def policy_families(policy: Policy | None) -> Iterator[Metric]:
    """Whether the policy is the operator's own."""
    yield GaugeMetricFamily(
        "qosctl_policy_custom",
        "1 where the operator has set a policy, 0 for the default: each inner class keeps its own DSCP outside.",
        value=None if policy is None else policy != Policy.identity(),
    )


def device_families(devices: Sequence[Device] | None) -> Iterator[Metric]:
    """Programs and counters. Of two devices of one name, one gone and one its successor, the counters add up."""
    by_name: dict[str, list[Device]] = defaultdict(list)
    for device in devices or ():
        by_name[device.name].append(device)
    yield from _program_families(by_name)
    yield _packets(by_name)
    yield from _outer(by_name)


def _program_families(by_name: Mapping[str, Sequence[Device]]) -> Iterator[Metric]:
    attached = GaugeMetricFamily(
        "qosctl_program_attached",
        "1 where the marking program stands at the device's egress now, 0 where it did and is gone: someone removed it, or "
        "the device was deleted.",
        labels=["device"],
    )
    program = InfoMetricFamily(
        "qosctl_program",
        "The attached program: the hook it stands at (tcx or clsact), and its tag, which tells versions apart.",
        labels=["device"],
    )
    loaded = GaugeMetricFamily(
        "qosctl_program_load_timestamp_seconds", "When the attached program was loaded, in Unix time.", labels=["device"]
    )
    foreign = GaugeMetricFamily(
        "qosctl_foreign_programs_ahead",
        "Others' programs and filters that run before ours at the device's egress. One of them may end the chain, and ours "
        "then sees no packet.",
        labels=["device"],
    )
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for name, devices in by_name.items():
        present = next((device.attachment for device in devices if device.attachment is not None), None)
        attached.add_metric([name], present is not None)
        if present is not None:
            program.add_metric([name], {"hook": present.hook, "tag": present.program.tag})
            loaded.add_metric([name], (booted + present.program.loaded_at) // _NANOSECONDS)
            foreign.add_metric([name], present.foreign_ahead)
    yield from (attached, program, loaded, foreign)


def _packets(by_name: Mapping[str, Sequence[Device]]) -> Metric:
    metric = CounterMetricFamily(
        "qosctl_packets",
        "Packets seen at the device's egress, by what became of them; each has exactly one outcome, and a batch counts as "
        f"its segments. What the packet was: {'; '.join(f'{outcome.label}: {outcome.was}' for outcome in Outcome)}.",
        labels=["device", "outcome"],
    )
    for name, devices in by_name.items():
        for outcome in Outcome:
            metric.add_metric([name, outcome.label], sum(device.counters.outcomes[outcome] for device in devices))
    return metric


def _outer(by_name: Mapping[str, Sequence[Device]]) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "qosctl_outer_packets",
        "Tunnel packets that left with this outer DSCP, by stamp or because it was right already; classes seen only.",
        labels=["device", "dscp"],
    )
    octets = CounterMetricFamily(
        "qosctl_outer_bytes",
        "Bytes on the wire, link header included, of the packets in qosctl_outer_packets_total.",
        labels=["device", "dscp"],
    )
    for name, devices in by_name.items():
        for dscp in Dscp.all():
            seen = [device.counters.outer[dscp] for device in devices if device.counters.outer[dscp].packets]
            if seen:
                packets.add_metric([name, dscp.name], sum(traffic.packets for traffic in seen))
                octets.add_metric([name, dscp.name], sum(traffic.bytes for traffic in seen))
    yield from (packets, octets)


def flow_families(alive: Sequence[Flow] | None, dead: Sequence[Flow] | None) -> Iterator[Metric]:
    """How many tunnels are known to the kernel."""
    flows = GaugeMetricFamily(
        "qosctl_flows",
        "Tunnels whose packets the program recognises, by whether the process that made them still runs. Dead owners' "
        "flows are harmless and go with the next attach or connect.",
        labels=["owner"],
    )
    for owner, group in (("alive", alive), ("dead", dead)):
        if group is not None:
            flows.add_metric([owner], len(group))
    yield flows
    yield GaugeMetricFamily(
        "qosctl_flows_limit", "Flows that fit; a tunnel beyond them works, but stays unmarked.", value=FLOW_SLOTS
    )


def scrape_families(readable: Mapping[str, bool], seconds: float, version: str) -> Iterator[Metric]:
    """What the scrape says of itself."""
    parts = GaugeMetricFamily(
        "qosctl_part_readable",
        "1 where this part of the kernel's state could be read, 0 where it is damaged: its metrics are missing then, and "
        "the reason is in the exporter's log.",
        labels=["part"],
    )
    for part, fine in readable.items():
        parts.add_metric([part], fine)
    yield parts
    yield GaugeMetricFamily("qosctl_scrape_duration_seconds", "Time this scrape took to read everything.", value=seconds)
    yield InfoMetricFamily("qosctl_build", "The version of qosctl that answers.", value={"version": version})
