"""Every FAIL and WARN that doctor can give is brought about for real by some test.

Both sides are read from the sources: the calls in supervisor/doctor that make such findings, and the tests that say which
they cause (looking.causes). That such a test did see the finding is checked when it runs (conftest.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from qosctl.supervisor import doctor

HERE = Path(__file__).parent
MAKERS = ("failed", "warned", "_refused")  # the last one makes findings for others


@dataclass(frozen=True)
class Site:
    """A place where a finding is made: its check (empty: the caller's) and the fixed pieces of what it says."""

    place: str
    check: str
    pieces: tuple[str, ...]

    def made(self, check: str, words: str) -> bool:
        """Whether a finding with this check and these words can come from here."""
        return self.check in ("", check) and any(words in piece for piece in self.pieces)


def calls(path: Path) -> Iterator[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))


def constant(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def sites() -> list[Site]:
    found = []
    for path in sorted(Path(doctor.__path__[0]).glob("*.py")):
        for call in calls(path):
            if isinstance(call.func, ast.Name) and call.func.id in MAKERS:
                pieces = tuple(filter(None, (constant(n) for n in ast.walk(call) if isinstance(n, ast.expr))))
                found.append(Site(f"{path.name}:{call.lineno}", constant(call.args[0]), pieces))
    return found


def caused() -> list[tuple[str, str]]:
    tests = [path for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    return [
        (constant(call.args[0]), constant(call.args[1]))
        for path in tests
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "causes"
    ]


def test_there_are_as_many_as_one_would_think() -> None:
    assert len(sites()) > 30


@pytest.mark.parametrize("site", sites(), ids=lambda site: site.place)
def test_each_finding_is_caused_by_a_test(site: Site) -> None:
    assert any(site.made(*one) for one in caused()), site


def test_no_test_says_to_cause_what_is_never_said() -> None:
    known = sites()
    assert [one for one in caused() if not any(site.made(*one) for site in known)] == []
