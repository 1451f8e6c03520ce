"""The table of faults: no row of it is lost between the tests that measure it and the page."""

from __future__ import annotations

import json
import multiprocessing
import re
from pathlib import Path

import pytest

from tests import faults
from tests.faults import DECLARED, PAGE, TESTS, MissingError, table
from tests.leaks.faults import AROUND, FAULTS, NO_TUNNEL
from tests.system import flowing
from tests.system.flowing import Row, note


@pytest.fixture(name="_nothing_is_left_behind", autouse=True)
def _no_namespace_is_needed() -> None:
    """In place of the look at a line."""


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "faults.json"
    monkeypatch.setattr(flowing, "MEASURED", path)
    monkeypatch.setattr(faults, "MEASURED", path)
    return path


def row(fault: str) -> Row:
    return Row(fault, "nothing", "its start", 0.1, 0, kept=True)


def test_rows_that_several_processes_note_at_a_time_are_all_there(measured: Path) -> None:
    pool = multiprocessing.get_context("fork").Pool(4)
    for _ in range(3):
        pool.map(note, map(row, DECLARED), chunksize=1)
    pool.close()  # not terminate(): a child of ours unwinds on SIGTERM, and may do so while it waits for the queue's lock
    pool.join()
    assert sorted(each["fault"] for each in json.loads(measured.read_text())) == sorted(DECLARED)


def test_a_page_of_fewer_rows_is_refused(measured: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text("as it was")
    monkeypatch.setattr(faults, "PAGE", page)
    assert faults.main([]) == 1
    for fault in DECLARED[1:]:
        note(row(fault))
    with pytest.raises(MissingError, match="not measured: "):
        table(json.loads(measured.read_text()))
    assert faults.main([]) == 1
    assert page.read_text() == "as it was"
    note(row(DECLARED[0]))
    assert faults.main([]) == 0
    assert [line.split("|")[1].strip() for line in page.read_text().splitlines()[-len(DECLARED) :]] == list(DECLARED)


def test_a_row_that_nobody_declared_is_noted_nowhere(measured: Path) -> None:
    with pytest.raises(AssertionError):
        note(row("something else"))
    assert not measured.exists()


def test_the_page_has_all_rows_and_names_the_tests_that_measure_them() -> None:
    text = PAGE.read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:] == list(DECLARED)
    folder = Path(__file__).parent
    assert {path.name for path in folder.glob("test_*.py") if re.search(r"\bnote\(\s*Row\(", path.read_text())} == set(
        TESTS
    )


def test_what_leaves_outside_is_watched_through_every_row() -> None:
    watched = [name for fault in (*FAULTS, *AROUND) for name in fault.rows]
    assert len(watched) == len(set(watched))
    assert {name for fault in FAULTS for name in fault.rows} | NO_TUNNEL == set(DECLARED)
