"""docs/security.md names the tests that hold its promises: all that are marked `audit`, and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
(TABLE,) = re.findall(r"^\| \| promise .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", TABLE)


def is_the_mark(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute) and ast.unparse(each) == "pytest.mark.audit" for each in ast.walk(node))


def marked(path: Path) -> set[str]:
    """The tests of a file that are marked, by themselves, in a parameter, or with the whole file."""
    source = path.read_text(encoding="utf-8")
    if "mark.audit" not in source:  # most files
        return set()
    module = ast.parse(source)
    tests = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    marks = [node for node in module.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
    whole = any(map(is_the_mark, marks))
    return {test.name for test in tests if whole or any(map(is_the_mark, test.decorator_list))}


@pytest.fixture(scope="module")
def audit() -> dict[str, set[str]]:
    """The marked tests of each file that has any."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {str(path.relative_to(ROOT)): tests for path in files if (tests := marked(path))}


def test_each_hostile_test_is_named(audit: dict[str, set[str]]) -> None:
    wholly = {file for file, name in NAMED if not name}
    unnamed = {file: tests - {name for path, name in NAMED if path == file} for file, tests in audit.items()}
    missing = {file: tests for file, tests in unnamed.items() if tests and file not in wholly}
    assert missing == {}, "docs/security.md does not say what these hold"


def test_each_named_test_is_there_and_marked(audit: dict[str, set[str]]) -> None:
    assert NAMED
    assert [(file, name) for file, name in NAMED if file not in audit or name not in {"", *audit[file]}] == []


def test_each_finding_of_the_audit_has_its_line() -> None:
    first = re.findall(r"^\| ([\d, ]+) \|", TABLE, re.MULTILINE)
    assert sorted(int(number) for cell in first for number in cell.split(",")) == [*range(1, 21)]
