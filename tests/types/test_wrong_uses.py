"""mypy rejects every mix-up in wrong_uses.txt, with the error that is written beside it, and nothing else in that file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

WRONG = Path(__file__).with_name("wrong_uses.txt")
ROOT = Path(__file__).parent.parent.parent


def test_mypy_rejects_each_wrong_use_and_no_right_one(tmp_path: Path) -> None:
    expected = {
        (number, match.group(1))
        for number, line in enumerate(WRONG.read_text(encoding="utf-8").splitlines(), 1)
        if (match := re.search(r"# wrong: ([a-z-]+)$", line)) is not None
    }
    checked = tmp_path / "wrong_uses.py"
    checked.write_bytes(WRONG.read_bytes())
    argv = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes", "--hide-error-context"]
    done = subprocess.run(
        [*argv, "--config-file", ROOT / "pyproject.toml", checked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {
        (int(match.group(1)), match.group(2))
        for line in done.stdout.splitlines()
        if (match := re.match(r".*wrong_uses\.py:(\d+): error: .*\[([a-z-]+)\]$", line)) is not None
    }
    assert len(expected) > 40
    assert found == expected, done.stdout + done.stderr
