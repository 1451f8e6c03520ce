"""What the exporter exports, asked of the exporter's own collector: the names and nothing typed by hand."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from prometheus_client.metrics_core import Metric
from qosctl.metrics.collector import KernelCollector

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
# What the collector yields with nothing attached: every family, whatever the machine.
_NOWHERE = Path("/nonexistent/qosctl")
_SUFFIX = {"counter": "_total", "info": "_info", "gauge": ""}


@functools.cache
def families() -> dict[str, Metric]:
    """Every family of the exporter, by the name that its samples go by in Prometheus."""
    collector = KernelCollector(
        lambda _pins: None, version="test", report=lambda _part, _error: None, state=lambda: _NOWHERE
    )
    return {family.name + _SUFFIX[family.type]: family for family in collector.collect()}


def metrics_in(expression: str) -> set[str]:
    """The names of ours in a PromQL expression or a text."""
    return set(re.findall(r"\bqosctl_[a-z0-9_]+", expression))
