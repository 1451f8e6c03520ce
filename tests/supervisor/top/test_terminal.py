"""The real command, through a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.passtos import set_passtos

from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, stand
from tests.supervisor.supervise.load import loaded

PATIENCE = 30.0
SEES_TRAFFIC = f"{NEAR}: EF "


@pytest.fixture(name="line", scope="module")
def line_fixture() -> Iterator[Stand]:
    with stand() as built:
        attach([NEAR])
        set_passtos(True)
        yield built


def test_through_a_pipe_it_is_a_line_a_tick(line: Stand) -> None:
    with loaded(line):
        said = line.sender.run([str(COMMAND), "top", "-n", "2", "-i", "0.3"])
    lines = said.stdout.splitlines()
    assert len(lines) == 2
    assert all("passtos on" in each and SEES_TRAFFIC in each and each.isprintable() for each in lines)
    assert said.stderr == ""


def test_json_is_a_document_a_tick(line: Stand) -> None:
    with loaded(line):
        said = line.sender.run([str(COMMAND), "top", "--json", "-n", "2", "-i", "0.3"])
    first, second = map(json.loads, said.stdout.splitlines())
    assert first["schema_version"] == 1
    assert second["time_unix_ns"] > first["time_unix_ns"]
    assert second["devices"][0]["outer"]["EF"]["packets_per_second"] > 0


@pytest.mark.parametrize("words", [["-i", "0"], ["-i", "nan"], ["-n", "0"]])
def test_no_sense_is_a_usage_error(line: Stand, words: list[str]) -> None:
    assert line.sender.run([str(COMMAND), "top", *words], check=False).returncode == 1


def test_ctrl_c_ends_it_in_order(line: Stand) -> None:
    process = line.sender.popen([str(COMMAND), "top", "-i", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")


def test_nothing_attached_is_exit_3(line: Stand) -> None:
    said = line.watcher.run([str(COMMAND), "top", "-n", "1", "-i", "0.1"], check=False)
    assert said.returncode == 3


@pytest.mark.parametrize("term", ["xterm", "screen", "tmux-256color", "linux"])
def test_on_a_terminal_it_draws_in_place_and_gives_the_terminal_back(line: Stand, term: str, tmp_path: Path) -> None:
    del tmp_path
    ours, theirs = pty.openpty()
    process = line.sender.popen(
        [str(COMMAND), "top", "-i", "0.2"], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": term}
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + PATIENCE
    while shown.count(b"\x1b[H") < 3 and time.monotonic() < deadline:
        shown += _read(ours)
    os.write(ours, b"q")
    while process.poll() is None and time.monotonic() < deadline:
        shown += _read(ours)
    os.close(ours)
    text = shown.decode()
    assert text.startswith("\x1b[?1049h")
    assert text.endswith("\x1b[?1049l")
    assert f"{NEAR}  attached (tcx)" in text
    assert "\x1b[3" not in text, "no colour"
    assert process.returncode == 0


def _read(fd: int) -> bytes:
    ready, _, _ = select.select([fd], [], [], 0.2)
    try:
        return os.read(fd, 65536) if ready else b""
    except OSError:  # the other side has closed
        return b""
