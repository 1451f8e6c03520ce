"""Draw what repeats the program's outcomes and the clients' statistics: `make figures` does.

Each is declared once, in bpf/outcome.py and bpf/flow_page/statistics.py. The files below say the same to people and to
other programs; tests/unit/test_catalogue.py holds them to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from qosctl.bpf.flow_page.family import Family, Kind, Section
from qosctl.bpf.flow_page.statistics import RECONNECTS, Statistic, by_family, cases_of
from qosctl.bpf.outcome import Fate, Outcome, outcomes_of
from qosctl.bpf.read_count import ReadCount

ROOT = Path(__file__).parent.parent
_OUTCOMES_HEAD = "| `outcome` | the packet was | worth a look when it grows |\n|---|---|---|\n"
_FOLLOWED_HEAD = "| of others' tunnels, by `pattern` | what it counts | worth a look |\n|---|---|---|\n"
_RULE = "---|\n"
_SELECTOR = re.compile(r'(outcome(?:=~|!~)\\?")([a-z0-9_|]+)(?=\\?")')


def by_fate(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Put them in the order in which people read of them: fates as declared, then numbers."""
    fates = list(Fate)
    return sorted(outcomes, key=lambda outcome: (fates.index(outcome.fate), outcome))


def operations(text: str) -> str:
    """Draw the table of outcomes, and the rows of the clients' statistics among the other metrics."""
    rows = [f"| `{outcome.label}` | {outcome.was} | {outcome.watch} |\n" for outcome in by_fate(Outcome)]
    text = _in_table(text, _OUTCOMES_HEAD, lambda _: rows)
    for section in Section:
        wanted = {_name(family): _row(family) for family in by_family() if family.section is section}
        head = f"### {section.value}\n"
        text = _in_table(text, head, partial(_with_rows, wanted))
    read = {f"{count.metric}_total": _read_row(count) for count in ReadCount}
    return _in_table(text, _FOLLOWED_HEAD, lambda _: list(read.values()))


def _read_row(count: ReadCount) -> str:
    return f"| `{count.metric}_total` | {count.help[:1].lower()}{count.help[1:].rstrip('.')} | {count.watch} |\n"


def _in_table(text: str, head: str, draw: Callable[[list[str]], list[str]]) -> str:
    """Let `draw` make new rows of those in the first table below `head`, which may end in the head of the table."""
    before, head, rest = text.partition(head)
    if not head.endswith(_RULE):
        above, rule, rest = rest.partition(_RULE)
        head += above + rule
    table, blank, after = rest.partition("\n\n")
    return "".join((before, head, *draw([f"{row}\n" for row in table.splitlines()])))[:-1] + blank + after


def _with_rows(wanted: Mapping[str, str], present: list[str]) -> list[str]:
    """Draw each wanted row where it stands, or below all where it does not; other rows stay."""
    rows = {row.split("|")[1].strip(" `"): row for row in present}
    return list((rows | dict(wanted)).values())


def _row(family: Family) -> str:
    watched: dict[str, list[str]] = {}
    for case, each in cases_of(family).items():
        if each.watch:
            watched.setdefault(each.watch, []).append(f"`{case}`")
    watch = "; ".join(f"{' and '.join(cases)}: {text}" for text, cases in watched.items())
    return f"| `{_name(family)}` | {family.use}{'. ' if watch else ''}{watch} |\n"


def _name(family: Family) -> str:
    """Return the name that the metric's samples go by."""
    return family.name + ("_total" if family.kind is Kind.COUNTER else "")


def queries(text: str) -> str:
    """Let each list of outcomes in a query name all of a fate of which it names one; KeyError for what is no outcome."""

    def whole(selector: re.Match[str]) -> str:
        fates = {Outcome[name.upper()].fate for name in selector[2].split("|")}
        return selector[1] + "|".join(outcome.label for outcome in by_fate(outcomes_of(*fates)))

    return _SELECTOR.sub(whole, text)


def schema(*lists: tuple[str, Iterable[str]]) -> Callable[[str], str]:
    """Require the keys of each list in the object behind its path of keys, of all objects in arrays."""

    def draw(text: str) -> str:
        document = json.loads(text)
        for path, keys in lists:
            _behind(document, path)["required"] = list(keys)
        return json.dumps(document, indent=2) + "\n"

    return draw


def _behind(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document["properties"][key]
        document = document.get("items", document)
    return document


def _all_counts(text: str, path: str, kind: Mapping[str, Any]) -> str:
    """Describe an object that has each count of what is followed, and nothing else."""
    document = json.loads(text)
    counts = [count.label for count in ReadCount]
    _behind(document, path).update(properties={name: dict(kind) for name in counts}, required=counts)
    return json.dumps(document, indent=2) + "\n"


_ALL_OUTCOMES = [outcome.label for outcome in Outcome]
_ALL_STATISTICS = [statistic.label for statistic in Statistic]

DRAWN: Mapping[str, Callable[[str], str]] = {
    "docs/operations.md": operations,
    "docs/schemas/status.json": lambda text: _all_counts(
        schema(("devices.outcomes", _ALL_OUTCOMES))(text), "following.patterns.reads", {"type": "integer", "minimum": 0}
    ),
    "docs/schemas/top.json": lambda text: _all_counts(
        schema(("devices.outcomes_per_second", _ALL_OUTCOMES))(text),
        "followed.reads_per_second",
        {"type": "number", "minimum": 0},
    ),
    "docs/schemas/flows.json": schema(("flows.statistics", _ALL_STATISTICS), ("flows.reconnects", cases_of(RECONNECTS))),
    "deploy/grafana/dashboard.json": queries,
    "deploy/prometheus/alerts.yml": queries,
}
"""Each file, and what makes of its text what it should be."""
