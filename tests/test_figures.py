"""`make figures`: what is drawn is what was measured last, and no figure says less than it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.deploy.test_dashboard import DASHBOARD
from tests.figures import draw
from tests.figures.__main__ import FIGURES, ROOT, main
from tests.figures.page import RefusedError, table, with_block, write

_GENERATED = (
    "README.md",
    "docs/performance.md",
    "docs/comparison.md",
    "docs/faults.md",
    "docs/leaks.md",
    "docs/dscp-tos-ecn.md",
)
_PAGE = "before\n<!-- figures: drawn -->\n| head |\n|---|\n| 1 |\n<!-- end of figures -->\nafter\n"
_OTHER_KERNEL = "## Linux 6.18\n\n| `a-rule` | fails |\n"
_MATRIX = f"# Kernels\n\n## Linux 6.1\n\n| `a-rule` | matches |\n| `vxlan-inwards` | stays |\n\n{_OTHER_KERNEL}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what `make figures` reads and writes."""
    (tmp_path / "build").mkdir()
    for folder in ("docs", "deploy/grafana", "deploy/prometheus"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def changed(tree: Path) -> list[str]:
    return [name for name in _GENERATED if (tree / name).read_text() != (ROOT / name).read_text()]


def edit(file: Path, change: Any) -> None:
    known = json.loads(file.read_text())
    change(known)
    file.write_text(json.dumps(known))


def test_all_pages_are_as_they_are_drawn(tree: Path) -> None:
    """The kernel's matrix is held by tests/supervisor/doctor/test_matrix.py, and pictures take long: one is drawn below."""
    assert main([name for name in FIGURES if name not in {"matrix", "bottleneck", "dashboard", "grid"}], tree) == 0
    assert changed(tree) == []


def test_a_picture_is_drawn_from_what_is_stored(tree: Path) -> None:
    picture = tree / "docs/bottleneck.png"
    picture.unlink()
    assert main(["bottleneck"], tree) == 0
    assert picture.stat().st_size > 10_000


def test_a_block_is_replaced_and_nothing_around_it() -> None:
    assert with_block(_PAGE, "figures", "| head |\n|---|\n| 2 |\n") == _PAGE.replace("1", "2")


@pytest.mark.parametrize(("name", "block"), [("figures", "| head |\n|---|\n"), ("others", "| head |\n|---|\n| 1 |\n")])
def test_a_block_that_is_not_there_or_would_lose_rows_is_refused(name: str, block: str) -> None:
    with pytest.raises(RefusedError):
        with_block(_PAGE, name, block)


def test_a_page_that_would_lose_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "page.md", _PAGE)
    with pytest.raises(RefusedError, match=r"page\.md would have 2 rows, and has 3"):
        write(tmp_path / "page.md", _PAGE.replace("| 1 |\n", ""))
    assert (tmp_path / "page.md").read_text() == _PAGE


def test_a_table_is_read_by_row_and_column() -> None:
    assert table("| fault | us | them |\n|---|---|---|\n| a, b | 0 | - |\n") == {"a, b": {"us": "0", "them": "-"}}


def test_a_bench_that_lacks_rows_is_refused_and_a_whole_one_is_taken(tree: Path) -> None:
    fresh, stored = tree / "build/bench.json", tree / "docs/bench.json"
    shutil.copy(stored, fresh)
    edit(fresh, lambda known: known["bottleneck"].pop())
    with pytest.raises(RefusedError, match=r"build/bench\.json lacks what docs/bench\.json has: \S+ of .+"):
        draw.bench(tree)
    assert changed(tree) == []
    shutil.copy(stored, fresh)
    edit(fresh, lambda known: known["tunnel"]["qosctl"]["overload"].update(cpu_us_per_packet=4.5))
    draw.bench(tree)
    assert "| 4.5 us | 6.4 us |" in (tree / "README.md").read_text()
    assert json.loads(stored.read_text()) == json.loads(fresh.read_text())


def test_the_machine_is_written_under_the_figures(tree: Path) -> None:
    machine = {"cpu": "A Processor", "cores": 2, "cache": {"L1 data": "32K", "L3 unified": "16384K"}}
    edit(tree / "docs/bench.json", lambda known: known.update(machine=machine, measured="2026-11-28"))
    draw.bench(tree)
    said = "Measured on A Processor, 2 cores, 16384K L3, Linux 6.18.44, 2026-11-28."
    assert said in (tree / "README.md").read_text()


def test_rows_of_faults_that_were_measured_are_taken_and_the_others_stay(tree: Path) -> None:
    row = {"fault": faults.DECLARED[3], "seen": "nothing", "since": "start", "seconds": 7.25, "lost": 1, "kept": True}
    (tree / "build/faults.json").write_text(json.dumps([row]))
    draw.faults_page(tree)
    before, after = ((root / "docs/faults.md").read_text().splitlines() for root in (ROOT, tree))
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        f"| {faults.DECLARED[3]} | nothing | 7.25 s | start | 1 | yes |"
    ]


def test_a_fault_that_was_never_measured_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "DECLARED", (*faults.DECLARED, "the sea rises"))
    with pytest.raises(RefusedError, match="not measured: the sea rises"):
        draw.faults_page(tree)
    assert changed(tree) == []


def test_a_row_of_leaks_that_no_fault_has_is_refused(tree: Path) -> None:
    page = tree / "docs/leaks.md"
    page.write_text(page.read_text() + "| the sea rises | 0 | 0 | 0 |\n")
    with pytest.raises(RefusedError, match="the sea rises"):
        draw.leaks_page(tree)


def test_a_grid_without_all_its_cases_is_refused(tree: Path) -> None:
    (tree / "docs/numbering-grid.json").write_text('{"schema_version": 2, "steady": [], "bursts": [], "border": []}')
    with pytest.raises(RefusedError, match="steady, bursts, border"):
        draw.grid(tree)


def test_a_grid_of_an_earlier_simulator_is_left_as_it_is(tree: Path) -> None:
    (tree / "docs/numbering-grid.json").write_text('{"schema_version": 1, "grid": []}')
    assert "left as it is" in draw.grid(tree)
    assert (tree / "docs/numbering-grid.png").read_bytes() == (ROOT / "docs/numbering-grid.png").read_bytes()


def test_a_dashboard_with_a_panel_that_was_never_asked_is_refused(tree: Path) -> None:
    title, number = DASHBOARD["panels"][-1]["title"], DASHBOARD["panels"][-1]["id"]
    edit(tree / "docs/dashboard.json", lambda known: known["panels"].pop(str(number)))
    with pytest.raises(RefusedError, match=title):
        draw.dashboard(tree)


def test_a_kernels_section_is_replaced_and_the_others_stay() -> None:
    section = "## Linux 6.1\n\n| `a-rule` | is refused |\n| `vxlan-inwards` | changes |\n"
    assert draw.with_section(_MATRIX, section) == _MATRIX.replace("matches", "is refused").replace("stays", "changes")
    assert draw.with_section(_MATRIX, section.replace("6.1", "7.0")) == _MATRIX


@pytest.mark.parametrize("left", ["", "| `vxlan-inwards` | not loaded here |\n"])
def test_a_kernels_section_that_says_less_is_refused(left: str) -> None:
    with pytest.raises(RefusedError, match="any more: vxlan-inwards"):
        draw.with_section(_MATRIX, f"## Linux 6.1\n\n| `a-rule` | matches |\n{left}")


def test_what_is_refused_is_said_and_the_others_are_drawn(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "docs/dashboard.json").unlink()
    page = tree / "docs/faults.md"
    page.write_text(page.read_text().replace("datagram goes", "pigeon flies"))
    assert main(["dashboard", "faults"], tree) == 1
    said = capsys.readouterr()
    assert said.err == "dashboard: refused: there is no dashboard.json (try: python -m tests.deploy.picture)\n"
    assert "docs/faults.md: 0 of 34 rows" in said.out
    assert changed(tree) == []
