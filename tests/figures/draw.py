"""One function a figure: each draws what it can, and returns from what. RefusedError where rows would be lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import catalogue as of_catalogue
from tests import faults
from tests.bench import picture
from tests.deploy import picture as dashboard_picture
from tests.figures import bench as of_bench
from tests.figures.page import RefusedError, table, with_block, write
from tests.leaks import page as leaks_of
from tests.simulator import plot

GRID_SCHEMA = 2
_NOT_HERE = "not loaded here"
Figures = dict[str, Any]
_BLOCKS: tuple[tuple[str, str, Callable[[Figures], str]], ...] = (
    ("README.md", "call", of_bench.calls),
    ("README.md", "costs", of_bench.costs),
    ("README.md", "program", of_bench.program),
    ("docs/comparison.md", "window", of_bench.window),
    ("docs/performance.md", "bottleneck", lambda bench: picture.table(bench["bottleneck"])),
    ("docs/performance.md", "costs", of_bench.costs),
    ("docs/performance.md", "cut wire", of_bench.cut_wire),
    ("docs/performance.md", "stamp", of_bench.stamp),
    ("docs/performance.md", "sends", of_bench.sends),
)


def catalogue(root: Path) -> str:
    """All that repeats the program's outcomes and the clients' statistics (tests/catalogue.py)."""
    drawn = {name: anew((root / name).read_text(encoding="utf-8")) for name, anew in of_catalogue.DRAWN.items()}
    for name, text in drawn.items():
        write(root / name, text)
    return f"{', '.join(drawn)}: from bpf/outcome.py, bpf/read_count.py and bpf/flow_page/statistics.py"


def faults_page(root: Path) -> str:
    """docs/faults.md, whose rows are those noted since then, and for the rest those that it has."""
    page, measured = root / "docs/faults.md", root / "build/faults.json"
    since = json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else []
    try:
        write(page, faults.page(since, before=page.read_text(encoding="utf-8")))
    except faults.MissingError as missing:
        raise RefusedError(str(missing)) from None
    return f"docs/faults.md: {len(since)} of {len(faults.DECLARED)} rows from build/faults.json, the rest as they were"


def leaks_page(root: Path) -> str:
    """docs/leaks.md, which holds its own results: its order and its words are drawn anew."""
    page = root / "docs/leaks.md"
    before = page.read_text(encoding="utf-8")
    if gone := set(table(before)) - set(leaks_of.names()):
        raise RefusedError(f"docs/leaks.md has rows that no fault has any more: {'; '.join(sorted(gone))}")
    write(page, leaks_of.page(table(before)))
    return f"docs/leaks.md: {len(table(before))} rows, as they were"


def bench(root: Path) -> str:
    """Every table of the bench, and docs/bench.json itself, from build/bench.json where that has all that docs/ has."""
    stored, fresh = root / "docs/bench.json", root / "build/bench.json"
    source = fresh if fresh.exists() else stored
    figures = json.loads(source.read_text(encoding="utf-8"))
    if lost := _measured(json.loads(stored.read_text(encoding="utf-8"))) - _measured(figures):
        raise RefusedError(f"build/bench.json lacks what docs/bench.json has: {'; '.join(sorted(lost))}")
    pages = {name: (root / name).read_text(encoding="utf-8") for name, _, _ in _BLOCKS}
    for name, block, text in _BLOCKS:
        pages[name] = with_block(pages[name], block, text(figures))
    for name, page in pages.items():
        write(root / name, page)
    stored.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return f"docs/bench.json, and tables in {', '.join(pages)}: from {source.relative_to(root)}"


def bottleneck(root: Path) -> str:
    """docs/bottleneck.png, from docs/bench.json."""
    measured = json.loads((root / "docs/bench.json").read_text(encoding="utf-8"))["bottleneck"]
    picture.draw(measured).savefig(root / "docs/bottleneck.png", dpi=110, metadata={"Software": None})
    return "docs/bottleneck.png: from docs/bench.json"


def _measured(figures: Figures) -> set[str]:
    rows = {f"{each['row']} of {each['client']}" for each in figures.get("bottleneck", ())}
    return rows | {name for name in figures if name != "bottleneck"}


def grid(root: Path) -> str:
    """docs/numbering-grid.png."""
    known = json.loads((root / "docs/numbering-grid.json").read_text(encoding="utf-8"))
    if known["schema_version"] != GRID_SCHEMA:
        return "docs/numbering-grid.png: left as it is, its figures are of an earlier simulator"
    sets = {kind.__name__: len(list(kind())) for kind in (plot.steady, plot.bursts, plot.border)}
    if short := [name for name, cases in sets.items() if len(known[name]) != cases]:
        raise RefusedError(f"docs/numbering-grid.json does not have all cases of {', '.join(short)}")
    plot.draw(known["steady"], known["bursts"], known["border"], root / "docs/numbering-grid.png")
    return "docs/numbering-grid.png: from docs/numbering-grid.json"


def dashboard(root: Path) -> str:
    """docs/dashboard.png, from what Prometheus answered last."""
    try:
        answers = dashboard_picture.stored(root / "docs/dashboard.json")
    except dashboard_picture.MissingError as missing:
        raise RefusedError(str(missing)) from None
    dashboard_picture.draw(answers).savefig(root / "docs/dashboard.png", dpi=80, metadata={"Software": None})
    return "docs/dashboard.png: from docs/dashboard.json"


def matrix(root: Path) -> str:
    """docs/dscp-tos-ecn.md: the section of this kernel, which root measures in seconds, and that of `make test-kernels`."""
    page, debian = root / "docs/dscp-tos-ecn.md", root / "build/kernels/out/matrix.md"
    before = page.read_text(encoding="utf-8")
    found = [debian.read_text(encoding="utf-8")] if debian.exists() else []
    if os.geteuid() == 0:
        command = [str(Path(sys.executable).with_name("qosctl")), "doctor", "--matrix"]
        found.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text = before
    for section in found:
        text = with_section(text, section)
    write(page, text)
    said = [f"{_kernel(each)} {'measured' if _kernel(each) in sections(text) else 'has no section'}" for each in found]
    return f"docs/dscp-tos-ecn.md: {', '.join(said) or 'no kernel measured'}"


def _kernel(section: str) -> str:
    return section.splitlines()[0].removeprefix("## ")


def sections(text: str) -> dict[str, str]:
    """Return the parts of the page by the kernel in their heading."""
    parts = re.split(r"^(?=## Linux )", text, flags=re.MULTILINE)
    return {_kernel(part): part for part in parts[1:]}


def with_section(text: str, section: str) -> str:
    """Return the page with a kernel's section anew, where it has one. RefusedError if that says less than it did."""
    before = sections(text).get(_kernel(section))
    if before is None:
        return text
    known, found = _keys(before), _keys(section)
    if lost := [
        key for key, said in known.items() if key not in found or (_NOT_HERE in found[key] and _NOT_HERE not in said)
    ]:
        raise RefusedError(f"not measured on this kernel any more: {'; '.join(lost)}")
    return text.replace(before, section.rstrip("\n") + "\n" * (len(before) - len(before.rstrip("\n"))))


def _keys(section: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([a-z0-9-]+)` (\|.*)$", section, re.MULTILINE))
