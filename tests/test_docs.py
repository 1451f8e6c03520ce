"""What people read about the commands is in step with the commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from qosctl.supervisor.cli import COMMANDS, build_parser
from qosctl.supervisor.exits import Exit

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def man_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("man") / "qosctl.1"
    module = ["--module", "qosctl.supervisor.cli", "--function", "build_parser", "--project-name", "qosctl"]
    subprocess.run([TOOLS / "argparse-manpage", *module, "--output", page], check=True, cwd="/", capture_output=True)
    return page.read_text(encoding="utf-8").replace("\\-", "-").replace("\\", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_man_page_and_the_readme_know_each_command(command: str, man_page: str) -> None:
    assert f"COMMAND '{command}'" in man_page or f"qosctl {command}" in man_page
    assert re.search(rf"`(qosctl )?{command}\b", (ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["man page", "README.md", "help"])
def test_the_exit_codes_are_documented(text: str, man_page: str) -> None:
    said = {
        "man page": man_page,
        "README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "help": build_parser().format_help(),
    }[text]
    line = re.search(r"Exit\s+codes:.*?permission\.", said, re.DOTALL)
    assert line is not None
    assert [int(number) for number in re.findall(r"\b\d\b", line.group())] == [int(code) for code in Exit]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_each_command(shell: str) -> None:
    script = subprocess.run(
        [TOOLS / "shtab", f"--shell={shell}", "--prog", "qosctl", "qosctl.supervisor.cli.build_parser"],
        check=True, cwd="/", capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert all(command in script for command in COMMANDS)
