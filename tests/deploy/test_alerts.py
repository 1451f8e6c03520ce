"""The alert rules fire for what is ill and stay silent for what is well, and ask for what is exported."""

from __future__ import annotations

import re
import subprocess

import pytest
from qosctl.metrics.listen import DEFAULT

from tests.deploy.exported import DEPLOY, families, metrics_in

FOLDER = DEPLOY / "prometheus"
RULES = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
CASES = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yml")


def test_each_fires_for_what_is_ill_and_for_nothing_else() -> None:
    promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_each_has_a_case_that_fires_it_and_one_that_does_not(alert: str) -> None:
    cases = re.findall(rf"alertname: {alert}\b(.*?)(?=alertname:|\n  - name:|\Z)", CASES, re.DOTALL)
    assert [case for case in cases if "exp_labels" in case]
    assert [case for case in cases if "exp_alerts: []" in case]


def test_they_ask_for_exported_metrics_only() -> None:
    assert metrics_in(RULES) <= set(families())
    assert metrics_in(CASES) <= set(families())


def test_prometheus_takes_the_configuration_as_it_lies_there_and_finds_the_exporter_and_the_alerts() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", "prometheus.yml")
    assert f'targets: ["{DEFAULT}"]' in (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
