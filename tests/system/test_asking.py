"""Whoever is asked for a secret may also go: at once, with one line, and the terminal is as it was (findings 6 and 20)."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.qosctl import COMMAND
from tests.lab.terminal import Terminal
from tests.lab.testbed import Line

pytestmark = pytest.mark.audit

INTERRUPTED = 130
CTRL_C = b"\x03"
SIGNS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
by_sign = pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)


def argv(line: Line, *login: str) -> list[str]:
    url = f"https://{line.topology.server4}:{line.server.port}"
    return [str(COMMAND), "connect", url, "--script", "none", "--servercert", line.server.pin, *login]


def waits_for(pid: int, descriptor: int) -> bool:
    """Whether a process is in poll(2) for `descriptor`, as its registers and the array they point to say."""
    said = Path(f"/proc/{pid}/syscall").read_text().split()
    if len(said) < 3:  # it runs
        return False
    array, count = int(said[1], 16), int(said[2], 16)
    if not 0 < count < 8:  # some other call
        return False
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        try:
            memory.seek(array)
            waited = struct.iter_unpack("ihh", memory.read(8 * count))
        except OSError:
            return False
        return any((number, events) == (descriptor, select.POLLIN) for number, events, _ in waited)


@by_sign
def test_a_signal_ends_the_prompt(line: Line, sign: signal.Signals) -> None:
    with Terminal(line.client, argv(line, "-u", "alice")) as terminal:
        terminal.wait_for(b"Password of alice: ")
        assert not terminal.echoes
        os.kill(terminal.pid, sign)
        assert terminal.wait(5) == INTERRUPTED
        assert terminal.echoes
        assert terminal.lines == ["Password of alice: ", "qosctl: stopped while the password of alice was awaited"]


def test_ctrl_c_ends_the_prompt_and_twice_is_no_worse(line: Line) -> None:
    with Terminal(line.client, argv(line, "-u", "alice")) as terminal:
        terminal.wait_for(b"Password of alice: ")
        terminal.type(b"half of it" + CTRL_C + CTRL_C)
        assert terminal.wait(5) == INTERRUPTED
        assert terminal.echoes
        assert terminal.lines[-1] == "qosctl: stopped while the password of alice was awaited"
        assert b"half" not in terminal.shown


def test_a_window_that_closes_ends_the_prompt(line: Line) -> None:
    with Terminal(line.client, argv(line, "-u", "alice")) as terminal:
        terminal.wait_for(b"Password of alice: ")
        terminal.close()
        assert terminal.wait(5) == INTERRUPTED


def test_the_password_that_is_typed_is_taken(line: Line) -> None:
    with Terminal(line.client, argv(line, "-u", "alice")) as terminal:
        terminal.wait_for(b"Password of alice: ")
        terminal.type(line.server.users["alice"].encode() + b"\n")
        terminal.wait_for(b"connected ")
        assert terminal.echoes
        assert line.server.users["alice"].encode() not in terminal.shown
        terminal.type(CTRL_C)
        assert terminal.wait(10) == 0


@by_sign
@pytest.mark.parametrize(
    "login", [("-u", "alice", "--passwd-on-stdin"), ("--cookie-on-stdin",)], ids=["password", "cookie"]
)
def test_a_signal_ends_the_waiting_for_standard_input(line: Line, login: tuple[str, ...], sign: signal.Signals) -> None:
    process = line.client.popen(argv(line, *login), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 10
    while not waits_for(process.pid, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    assert process.wait(5) == INTERRUPTED
    assert process.stderr is not None
    assert process.stderr.read() == "qosctl: stopped while standard input was awaited\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (b"", "standard input is empty"),
        (b"\xff\xfe\n", "standard input is no UTF-8 text"),
        (b"x" * (1 << 17), "standard input has no end"),
    ],
    ids=["nothing", "no text", "no end"],
)
def test_what_is_no_line_is_refused(line: Line, typed: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "typed").write_bytes(typed)
    with (tmp_path / "typed").open() as file:
        process = line.client.popen(argv(line, "--cookie-on-stdin"), stdin=file, stderr=subprocess.PIPE)
        assert process.wait(10) == 1
    assert process.stderr is not None
    assert process.stderr.read() == f"qosctl: connect: {said}\n"
