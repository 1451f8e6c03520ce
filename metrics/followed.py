"""What was read from tunnels of others and sent: bpf.read_count.ReadCount turned into metrics, by pattern.

A pattern is what an operator follows, 32 at the most: a server's workers, which come and go by the
hundred, make one series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from qosctl.bpf.maps.following import Reads
from qosctl.bpf.read_count import ReadCount


def followed_families(followed: Mapping[str, Reads] | None) -> Iterator[Metric]:
    """Yield a counter for each ReadCount, without samples where they could not be read (None)."""
    for count in ReadCount:
        metric = CounterMetricFamily(count.metric, count.help, labels=["pattern"])
        for pattern, reads in (followed or {}).items():
            metric.add_metric([pattern], reads[count])
        yield metric
