"""Draw what repeats the program's outcomes and the clients' statistics: `python -m tests.catalogue`.

Each is declared once, in bpf/outcome.py and bpf/flow_page/statistics.py. The files below say the same to people and to
other programs; tests/unit/test_catalogue.py holds them to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.outcome import Fate, Outcome, outcomes_of
from qosctl.supervisor.output.json_documents import RECONNECTS

ROOT = Path(__file__).parent.parent
_OUTCOMES_HEAD = "| `outcome` | the packet was | worth a look when it grows |\n|---|---|---|\n"
_SELECTOR = re.compile(r'(outcome(?:=~|!~)\\?")([a-z0-9_|]+)(?=\\?")')


def by_fate(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Put them in the order in which people read of them: fates as declared, then numbers."""
    fates = list(Fate)
    return sorted(outcomes, key=lambda outcome: (fates.index(outcome.fate), outcome))


def operations(text: str) -> str:
    """Draw the table of outcomes in docs/operations.md."""
    before, head, rest = text.partition(_OUTCOMES_HEAD)
    after = rest[rest.index("\n\n") + 1 :]
    rows = (f"| `{outcome.label}` | {outcome.was} | {outcome.watch} |\n" for outcome in by_fate(Outcome))
    return "".join((before, head, *rows, after))


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


_ALL_OUTCOMES = [outcome.label for outcome in Outcome]
_ALL_STATISTICS = [statistic.label for statistic in Statistic]

DRAWN: Mapping[str, Callable[[str], str]] = {
    "docs/operations.md": operations,
    "docs/schemas/status.json": schema(("devices.outcomes", _ALL_OUTCOMES)),
    "docs/schemas/top.json": schema(("devices.outcomes_per_second", _ALL_OUTCOMES)),
    "docs/schemas/flows.json": schema(("flows.statistics", _ALL_STATISTICS), ("flows.reconnects", RECONNECTS)),
    "deploy/grafana/dashboard.json": queries,
    "deploy/prometheus/alerts.yml": queries,
}
"""Each file, and what makes of its text what it should be."""


def main() -> None:
    """Write the files that are not as they should be, and name them."""
    for name, draw in DRAWN.items():
        file = ROOT / name
        text = file.read_text(encoding="utf-8")
        if (wanted := draw(text)) != text:
            file.write_text(wanted, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    main()
