"""The pages for operators are in step with what they speak of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.maps.folding import FOLDS, fold
from qosctl.supervisor.cli.main import COMMANDS

from tests.deploy.exported import DOCS, ROOT, families, metrics_in
from tests.deploy.test_alerts import ALERTS
from tests.deploy.test_units import EXPOSURE_TENTHS_MAX, UNITS

OURS = [
    *(f"{name}.md" for name in ("quickstart", "privacy", "operations", "troubleshooting", "comparison", "security")),
    *(f"deploy-{name}.md" for name in ("debian", "systemd", "hooks", "grafana", "container", "kubernetes", "ansible")),
]
DEPLOYMENTS = [name for name in OURS if name.startswith("deploy-")]


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(page: str) -> set[str]:
    """The first cell of each table row, where it is code."""
    return set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))


def test_operations_explains_each_metric_and_no_other() -> None:
    explained = {name for name in rows(text("operations.md")) if name.startswith("qosctl_")}
    assert explained == set(families())


def test_operations_says_what_to_do_about_each_alert() -> None:
    assert re.findall(r"^### (Qosctl\w+)$", text("operations.md"), re.MULTILINE) == ALERTS


@pytest.mark.parametrize("page", OURS)
def test_only_exported_metrics_are_spoken_of(page: str) -> None:
    spoken = {
        name for name in metrics_in(text(page)) if not re.match(r"qosctl_(\d|deb|interfaces|passtos$|policy$|state$)", name)
    }
    assert spoken <= set(families())


@pytest.mark.parametrize("page", OURS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text(page)):
        assert target.startswith("http") or (DOCS / target).exists(), target


@pytest.mark.parametrize("page", OURS)
def test_commands_exist(page: str) -> None:
    shown = re.findall(r"(?:`|^    [#$] (?:.*[|&] )?)qosctl ([a-z]+)", text(page), re.MULTILINE)
    assert set(shown) <= set(COMMANDS)


@pytest.mark.parametrize("page", DEPLOYMENTS)
def test_each_deployment_says_what_for_how_and_how_to_undo(page: str) -> None:
    assert "**What it is for.**" in text(page)
    assert [line for line in text(page).splitlines() if line.startswith("## ")] == ["## Install", "## Undo"]


def test_privacy_shows_what_folding_does() -> None:
    """Each row of the table names classes, and what 2, 3 and 4 make of them."""
    lines = re.findall(r"^\| ([A-Z][^|]*?) \| (\w+) \| (\w+) \| (\w+) \|$", text("privacy.md"), re.MULTILINE)
    named: set[str] = set()
    for classes, *outer in lines:
        for name in re.findall(r"[A-Z]+\d*", re.sub(r"(AF\d)1 to AF\d3", r"\g<1>1, \g<1>2, \g<1>3", classes)):
            named.add(name)
            for count, said in zip(FOLDS, outer, strict=True):
                rule = dict(fold(count).items())[Dscp.parse(name)]
                assert rule.outer is not None
                assert rule.outer.name == said, (name, count)
    others = [dscp for dscp in Dscp.all() if dscp.name not in named]
    assert {rule.outer for count in FOLDS for dscp, rule in fold(count).items() if dscp in others} == {Dscp.parse("DF")}


def test_the_exposure_is_what_the_page_says() -> None:
    said = [float(number) for number in re.findall(r"\b(\d\.\d)\b", text("deploy-systemd.md").split("## Install")[0])]
    assert len(said) == len(UNITS)
    assert max(said) * 10 <= EXPOSURE_TENTHS_MAX
    for unit, number in zip(UNITS, said, strict=True):
        argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(ROOT / "deploy" / "systemd" / unit)]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        measured = re.search(r"exposure level for \S+: (\d\.\d)", shown)
        assert measured is not None
        assert float(measured[1]) == number, unit


def test_messages_in_the_tables_are_ones_that_are_said() -> None:
    sources = " ".join(
        Path(file).read_text(encoding="utf-8")
        for package in ("bpf", "supervisor", "dtls")
        for file in (ROOT / package).rglob("*.py")
    )
    (table,) = re.findall(r"## `attach` fails\n(.*?)\n## ", text("troubleshooting.md"), re.DOTALL)
    messages = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    assert messages
    for message in re.findall(r"`([^`]+)`", " ".join(messages)):
        assert message in sources or re.sub(r"\d+ s$", "", message).strip() in sources, message
