"""Names, kinds and helps, without a kernel: what dashboards and alerts are written against."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from qosctl.bpf.dscp import DF, EF
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued, backlog_word
from qosctl.bpf.flow_page.family import Family
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.flow_page.page import STATISTICS_MAX
from qosctl.bpf.flow_page.statistics import Statistic, by_family
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.flows import Flow
from qosctl.metrics.collector import KernelCollector, registry_of
from qosctl.metrics.tunnels import tunnel_families

from tests.lab.exporter import Answer

INFO = "qosctl_tunnel_info"
NOWHERE = Path("/nonexistent")


def answer(state: Callable[[], Path] = lambda: NOWHERE) -> Answer:
    collector = KernelCollector(lambda _: None, version="1.2.3", report=lambda *_: None, state=state)
    return Answer(generate_latest(registry_of(collector)).decode())


class Tunnels(Collector):
    def __init__(self, flows: Sequence[Flow]) -> None:
        self._flows = flows

    def collect(self) -> Iterator[Metric]:
        return tunnel_families(self._flows)


def tunnel(flows: Sequence[Flow]) -> Answer:
    registry = CollectorRegistry()
    registry.register(Tunnels(flows))
    return Answer(generate_latest(registry).decode())


def flow(device: str, port: int = 1, **statistics: int) -> Flow:
    values = [statistics.get(statistic.label, 0) for statistic in Statistic]
    key = FlowKey(("192.0.2.1", port), ("192.0.2.2", 443))
    return Flow(key, Owner(1, 0, device, "vpn.example"), values)


def broken() -> Path:
    raise OSError(5, "broken")


def test_every_metric_has_the_prefix_and_a_help_that_says_something() -> None:
    families = answer().families.values()
    ours = [family for family in families if not family.name.startswith("process_")]
    assert all(family.name.startswith("qosctl_") for family in ours)
    assert all(len(family.documentation) > 30 for family in ours)


def test_names_and_helps_are_the_same_when_nothing_can_be_read() -> None:
    fine, damaged = answer(), answer(broken)
    assert {f.name: (f.documentation, f.type) for f in fine.families.values()} == {
        f.name: (f.documentation, f.type) for f in damaged.families.values()
    }


def test_when_nothing_can_be_read_every_part_says_so_and_no_value_is_made_up() -> None:
    damaged = answer(broken)
    assert damaged.readable == {"switch": 0, "policy": 0, "devices": 0, "followed": 0, "flows": 0}
    for name in ("qosctl_passtos_enabled", "qosctl_policy_custom", "qosctl_flows"):
        assert damaged.families[name].samples == []


def test_no_state_at_all_is_a_fine_state() -> None:
    empty = answer()
    assert set(empty.readable.values()) == {1}
    assert empty("qosctl_passtos_enabled") == 0
    assert empty("qosctl_policy_custom") == 0
    assert empty.labelled("qosctl_flows", "owner") == {"alive": 0, "dead": 0}
    assert empty.families["qosctl_program_attached"].samples == []
    assert empty("qosctl_build_info", version="1.2.3") == 1
    assert empty("qosctl_scrape_duration_seconds") > 0


def test_an_unreadable_part_is_reported_with_its_reason() -> None:
    said: dict[str, str] = {}
    collector = KernelCollector(
        lambda _: None, version="", report=lambda part, error: said.update({part: str(error)}), state=broken
    )
    list(collector.collect())
    assert said["switch"] == "[Errno 5] broken"


def test_every_statistic_of_a_client_is_in_exactly_one_metric() -> None:
    """Each has a value of its own, in its metric's unit, and comes out once."""
    said = tunnel([flow("tun0", **{each.label: 1000 + each for each in Statistic})])
    ours = [sample.value for name, family in said.families.items() for sample in family.samples if name != INFO]
    assert sorted(ours) == pytest.approx(sorted((1000 + each) * each.family.unit.base for each in Statistic))


@pytest.mark.parametrize("family", by_family(), ids=[family.name for family in by_family()])
def test_a_metric_is_named_by_its_unit_and_explained_in_a_cell(family: Family) -> None:
    assert family.unit.word in family.name
    assert not family.name.endswith("_total")
    assert family.help.endswith(".")
    assert family.use
    assert not re.search(r"[|\n]|\.$", family.use)


@pytest.mark.parametrize("statistic", Statistic, ids=[statistic.label for statistic in Statistic])
def test_one_of_several_in_a_metric_says_which_and_what_that_means(statistic: Statistic) -> None:
    assert bool(statistic.family.label) == bool(statistic.case) == bool(statistic.was)
    assert not re.search(r"[|;\n]|\.$", statistic.was + statistic.watch)
    assert bool(statistic.word) == bool(statistic.line.value.strip("-"))


def test_the_words_of_statistics_are_numbered_one_after_the_other_and_fit() -> None:
    assert list(Statistic) == list(range(len(Statistic)))
    assert len(Statistic) <= STATISTICS_MAX


@pytest.mark.parametrize(
    ("statistic", "name", "labels", "values", "expected"),
    [
        ("packets_sent", "qosctl_tunnel_sent_packets_total", {}, (3, 4), 7),
        ("bytes_received", "qosctl_tunnel_received_bytes_total", {}, (3, 4), 7),
        ("dropped_replayed", "qosctl_tunnel_dropped_packets_total", {"reason": "replayed"}, (3, 4), 7),
        ("dpd_round_trip_us", "qosctl_tunnel_dpd_round_trip_seconds", {}, (1500, 500), 0.0015),
        ("backlog_ms", "qosctl_tunnel_backlog_seconds", {}, (80, 100), 0.1),
        ("backlog_records", "qosctl_tunnel_backlog_records", {}, (80, 100), 180),
        ("numbering_replay_safe", "qosctl_tunnel_numbering_replay_safe", {}, (1, 0), 0),
    ],
)
def test_flows_of_one_tunnel_are_combined_and_others_kept_apart(
    statistic: str, name: str, labels: dict[str, str], values: tuple[int, int], expected: float
) -> None:
    flows = [flow("tun0", port, **{statistic: value}) for port, value in enumerate(values)]
    both = tunnel([*flows, flow("tun1", 3, **{statistic: 1})])
    assert both(name, device="tun0", **labels) == pytest.approx(expected)
    assert both(name, device="tun1", **labels) == pytest.approx(
        tunnel([flow("x", **{statistic: 1})])(name, device="x", **labels)
    )


CLASS_METRICS = {
    "qosctl_tunnel_class_sent_packets_total": 2.0,
    "qosctl_tunnel_class_sent_bytes_total": 200.0,
    "qosctl_tunnel_class_received_packets_total": 6.0,
    "qosctl_tunnel_class_received_bytes_total": 600.0,
    "qosctl_tunnel_class_backlog_records": 14.0,
    "qosctl_tunnel_class_backlog_seconds": 0.0705,
}


def test_classes_have_series_where_they_have_carried_something_and_no_other() -> None:
    use = ClassUse(1, 100, 3, 300, backlog_word(Queued(7, 70_500)))
    unknown = ClassUse(1, 100, 0, 0, backlog_word(None))
    said = tunnel(
        [
            flow("tun0", 1)._replace(classes={EF: use}),
            flow("tun0", 2)._replace(classes={EF: use, DF: unknown}),
            flow("tun1", 3),
        ]
    )
    for name, value in CLASS_METRICS.items():
        assert said(name, device="tun0", dscp="EF") == pytest.approx(value)
        assert said.labelled(name, "dscp", device="tun1") == {}
        assert set(said.labelled(name, "dscp", device="tun0")) == ({"EF"} if "backlog" in name else {"EF", "DF"})


@pytest.mark.parametrize(
    ("state", "name", "channel"), [(0, "reconnecting", ""), (1, "tls", "tls"), (2, "dtls", "dtls"), (9, "unknown", "")]
)
def test_what_carries_a_tunnel_goes_by_name(state: int, name: str, channel: str) -> None:
    flows = [flow("tun0", 1), flow("tun0", 2, state=state)._replace(suite="AES128-SHA")]
    labels = {"state": name, "channel": channel, "cipher": "AES128-SHA" if state else ""}
    assert tunnel(flows)("qosctl_tunnel_info", device="tun0", **labels) == 1


def test_addresses_and_servers_are_never_labels() -> None:
    text = tunnel([flow("tun0")]).text
    assert "192.0.2" not in text
    assert "vpn.example" not in text
