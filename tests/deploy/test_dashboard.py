"""The Grafana dashboard asks for what is exported, parses, and keeps the rules that a dashboard linter would check."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.exported import DEPLOY, families, metrics_in

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
ROWS = [
    "Is it on?",
    "Is it working?",
    "What classes leave?",
    "What is inside?",
    "What is left alone, and why?",
    "Tunnel health",
    "Bulk against priority",
    "Replay risk",
]


def queries() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


QUERIES = list(queries())


def filled_in(expression: str) -> str:
    """As Grafana would send it."""
    for name in VARIABLES:
        expression = expression.replace(f"${name}", ".+")
    return expression.replace("$__rate_interval", "1m")


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_query_names_exported_metrics(title: str, expression: str) -> None:
    assert metrics_in(expression)
    assert metrics_in(expression) <= set(families()), title


def test_every_query_parses(tmp_path: Path) -> None:
    """As a recording rule each: promtool checks those without a server."""
    rules = [{"record": f"panel:{at}", "expr": filled_in(expression)} for at, (_, expression) in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


def test_the_questions_are_asked_in_order() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_has_title_description_unit_and_source(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for one in (panel, *panel["targets"]):
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_is_of_the_chosen_machines_and_devices(title: str, expression: str) -> None:
    selectors = re.findall(r"(qosctl_[a-z0-9_]+)(\{[^}]*\})?", expression)
    for name, selector in selectors:
        if name == "qosctl_flows_limit":  # joined on the instance of what it divides
            continue
        assert 'job=~"$job"' in selector, title
        assert 'instance=~"$instance"' in selector, title
        if name.startswith("qosctl_tunnel_"):
            assert 'device=~"$tunnel"' in selector, title
        elif name.startswith(("qosctl_program", "qosctl_packets", "qosctl_outer")):
            assert 'device=~"$device"' in selector, title


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_counters_are_rated_over_the_rate_interval(title: str, expression: str) -> None:
    counters = [name for name in metrics_in(expression) if name.endswith("_total")]
    ranges = re.findall(r"(?:rate|increase)\((qosctl_[a-z0-9_]+)\{[^}]*\}\[([^\]]+)\]\)", expression)
    assert {name for name, _ in ranges} == set(counters), title
    assert {duration for _, duration in ranges} <= {"$__rate_interval"}, title


def test_variables_are_templated() -> None:
    assert list(VARIABLES) == ["datasource", "job", "instance", "device", "tunnel"]
    source = VARIABLES.pop("datasource")
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
    for variable in VARIABLES.values():
        assert variable["type"] == "query"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
        assert variable["refresh"] == 2  # on a change of the time range: devices come and go
        assert metrics_in(variable["query"]["query"]) <= set(families())
        assert variable["label"]
    VARIABLES["datasource"] = source


def test_the_dashboard_is_provisioned_and_not_edited_in_place() -> None:
    assert DASHBOARD["editable"] is False
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "qosctl"
    provisioning = (DEPLOY / "grafana" / "provisioning" / "dashboards" / "qosctl.yml").read_text()
    assert "path: /usr/share/qosctl/grafana" in provisioning


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
