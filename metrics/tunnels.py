"""What the clients say of their tunnels: flow_page.Statistic turned into metrics, by tunnel device.

A tunnel can have two flows for a moment, when it reconnects; they are combined. Flows of dead owners are left out: what
they last said is not true any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from qosctl.bpf.flow_page.family import Family, Kind
from qosctl.bpf.flow_page.statistics import Statistic, by_family
from qosctl.bpf.maps.flows import Flow
from qosctl.metrics.by_dscp import class_families, info_family

Columns = Sequence[Sequence[int]]
"""The statistics of one tunnel's flows: by Statistic, a value for each flow."""

_KINDS: Mapping[Kind, type[CounterMetricFamily] | type[GaugeMetricFamily]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
}


def tunnel_families(flows: Sequence[Flow] | None) -> Iterator[Metric]:
    """Yield every tunnel metric, without samples where the flows could not be read (None). `flows`: of live owners."""
    tunnels: dict[str, list[Flow]] = defaultdict(list)
    for flow in flows or ():
        tunnels[flow.owner.tunnel].append(flow)
    columns = {device: tuple(zip(*(flow.statistics for flow in each), strict=True)) for device, each in tunnels.items()}
    for family, statistics in by_family().items():
        yield _metric(family, statistics, columns)
    yield info_family(tunnels)
    yield from class_families(tunnels)


def _metric(family: Family, statistics: Sequence[Statistic], tunnels: Mapping[str, Columns]) -> Metric:
    """Return the family with a sample for each tunnel and statistic."""
    metric = _KINDS[family.kind](
        family.name, _help(family, statistics), labels=["device", family.label] if family.label else ["device"]
    )
    for device, columns in tunnels.items():
        for statistic in statistics:
            combined = family.combine(columns[statistic]) * family.unit.base
            metric.add_metric([device, statistic.case] if family.label else [device], combined)
    return metric


def _help(family: Family, statistics: Sequence[Statistic]) -> str:
    """Say what each value of a label means, too."""
    if not family.label:
        return family.help
    return f"{family.help} {'; '.join(f'{each.case}: {each.was}' for each in statistics)}."
