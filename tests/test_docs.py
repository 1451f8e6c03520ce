"""What people read about the commands is in step with the commands."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from qosctl.supervisor.cli.main import COMMANDS, build_parser
from qosctl.supervisor.output.exit_codes import Exit

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def man_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("man") / "qosctl.1"
    module = ["--module", "qosctl.supervisor.cli.main", "--function", "build_parser", "--project-name", "qosctl"]
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
    line = re.search(r"Exit\s+codes:.*?interrupted\.", said, re.DOTALL)
    assert line is not None
    assert [int(number) for number in re.findall(r"\b\d+\b", line.group())] == [int(code) for code in Exit]


@pytest.mark.audit
def test_nobody_is_told_to_have_root_run_what_lies_in_a_checkout() -> None:
    """Whoever may change the checkout would change what root runs (finding 20)."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert not re.search(r"ln -s[^\n]*\.venv", page.read_text(encoding="utf-8")), page


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """All long options of a parser and of its commands."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= _options(command)
    return found


def test_the_man_page_knows_each_option(man_page: str) -> None:
    assert {option for option in _options(build_parser()) if option not in man_page} <= {"--help"}  # which is no secret


@pytest.fixture(scope="module", params=["bash", "zsh", "fish", "tcsh"])
def completion(request: pytest.FixtureRequest) -> tuple[str, str]:
    argv = [str(TOOLS / "shtab"), f"--shell={request.param}", "--prog", "qosctl", "qosctl.supervisor.cli.main.build_parser"]
    return request.param, subprocess.run(argv, check=True, cwd="/", capture_output=True, text=True).stdout


def test_completion_knows_each_command_and_option(completion: tuple[str, str]) -> None:
    shell, script = completion
    assert all(command in script for command in COMMANDS)
    missing = {option for option in _options(build_parser()) if option.removeprefix("--") not in script}
    assert missing == set(), shell


def test_make_builds_the_completion_of_each_shell(completion: tuple[str, str]) -> None:
    (shells,) = re.findall(r"for shell in ([a-z ]+);", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert completion[0] in shells.split()


def test_bash_takes_its_completion(completion: tuple[str, str]) -> None:
    shell, script = completion
    if shell == "bash":  # the one that every machine has
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_each_noun_that_has_json_is_documented() -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    nouns = {name for name, parser in commands.choices.items() if "--json" in _options(parser)}
    assert nouns == set(re.findall(r"^## `qosctl (\w+)", text, re.MULTILINE))


def _shown() -> list[tuple[str, str]]:
    """Each qosctl command line that a page shows to be typed, with the page: in a code block, or in a sentence.

    A synopsis, with brackets or dots in it, is none, nor is a command's bare name in a sentence.
    """
    found: set[tuple[str, str]] = set()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace(" \\\n", " ")
        blocks = re.findall(r"^    [#$] (.*)$", text, re.MULTILINE)
        sentences = [words for words in re.findall(r"`([^`\n]+)`", text) if len(words.split()) > 2]
        for line in re.split(r" && | \| |   +|\n", "\n".join([*blocks, *sentences])):
            words = re.sub(r"^.* (qosctl|--) (?=qosctl )", "", line).strip(" &")
            if words.startswith("qosctl ") and not re.search(r"\[|\.\.\.|\\", words):
                found.add((page.name, words))
    return sorted(found)


@pytest.mark.parametrize(("page", "words"), _shown())
def test_each_command_line_that_is_shown_is_understood(page: str, words: str) -> None:
    del page
    try:
        build_parser().parse_args(shlex.split(words)[1:])
    except SystemExit as ended:  # --version and --help are done when they are read
        assert ended.code == Exit.FINE


def test_command_lines_are_shown() -> None:
    pages = {page for page, _ in _shown()}
    assert {"README.md", "quickstart.md", "operations.md", "privacy.md", "deploy-systemd.md"} <= pages
