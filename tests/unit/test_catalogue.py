"""What is declared once is repeated everywhere as declared; tests/catalogue.py draws the files."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields

import pytest
from qosctl.bpf.abi import OUTCOME_SLOTS
from qosctl.bpf.maps.following import Reads
from qosctl.bpf.outcome import Fate, Outcome, outcomes_of
from qosctl.bpf.read_count import ReadCount

from tests.catalogue import DRAWN, ROOT, by_fate, queries

ABI = (ROOT / "bpf" / "program" / "abi.h").read_text(encoding="utf-8")
PROGRAM = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bpf" / "program").glob("*.[ch]"))


@pytest.mark.parametrize("name", DRAWN)
def test_a_file_that_repeats_the_catalogue_says_the_same(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    changes = difflib.unified_diff(text.splitlines(), DRAWN[name](text).splitlines(), "is", "should be", lineterm="", n=0)
    assert "\n".join(changes) == "", f"make figures writes {name} anew"


def test_the_header_and_the_catalogue_have_the_same_outcomes() -> None:
    """The compiler is asked too, in tests/bpf/program/test_abi.py; this takes no root."""
    declared = {name.lower(): int(number) for name, number in re.findall(r"^\tOUTCOME_(\w+) = (\d+),", ABI, re.MULTILINE)}
    assert {outcome.label: outcome.value for outcome in Outcome} == declared
    assert max(Outcome) < OUTCOME_SLOTS


def test_the_header_the_catalogue_and_what_is_read_have_the_same_counts() -> None:
    counted = re.search(r"struct follow_counters \{(.*?)\n\}", ABI, re.DOTALL)
    assert counted is not None
    names = re.findall(r"__u64 (\w+);", counted[1])
    assert [count.label for count in ReadCount] == [field.name for field in fields(Reads)] == ["packets", *names[1:]]


def test_the_program_ends_in_each_outcome() -> None:
    used = set(re.findall(r"\bOUTCOME_(\w+)\b", PROGRAM.replace(ABI, "")))
    assert {outcome.name for outcome in Outcome} - used == set()


@pytest.mark.parametrize("outcome", Outcome, ids=[outcome.label for outcome in Outcome])
def test_an_outcome_is_explained_in_a_cell_of_a_table(outcome: Outcome) -> None:
    for text in (outcome.was, outcome.watch):
        assert text
        assert not re.search(r"[|\n;]|\.$", text)


def test_every_outcome_is_of_one_fate_and_every_fate_has_some() -> None:
    assert outcomes_of(*Fate) == set(Outcome)
    assert all(outcomes_of(fate) for fate in Fate)


def test_a_query_that_names_one_outcome_of_a_fate_names_all() -> None:
    marked, foreign = ("|".join(each.label for each in by_fate(outcomes_of(fate))) for fate in (Fate.MARKED, Fate.FOREIGN))
    assert queries('{outcome=~"stamped"}') == f'{{outcome=~"{marked}"}}'
    assert queries(r"{outcome!~\"no_flow|stamped\"}") == rf"{{outcome!~\"{marked}|{foreign}\"}}"
    assert queries('{outcome="stamped"}') == '{outcome="stamped"}'
    with pytest.raises(KeyError, match="GONE"):
        queries('{outcome=~"stamped|gone"}')
