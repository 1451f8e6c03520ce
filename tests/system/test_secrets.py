"""Password and cookie are nowhere to be seen: not in the process list, not in its environment, not in anything printed."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.qosctl import COMMAND
from tests.lab.testbed import Line

PASSWORD_OPTIONS = ("--password-file", "--passwd-on-stdin")


@contextlib.contextmanager
def _connecting(line: Line, option: str) -> Iterator[subprocess.Popen[str]]:
    """Start `qosctl connect`, with the password as `option` says, and wait until it is connected."""
    url = f"https://{line.topology.server4}:{line.server.port}"
    words = [str(COMMAND), "connect", url, "--script", "none", "-u", "alice", "--servercert", line.server.pin, option]
    if option == "--password-file":
        words.append(str(line.server.password_file("alice")))
    process = line.client.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    if option == "--passwd-on-stdin":
        process.stdin.write(line.server.users["alice"] + "\n")
        process.stdin.flush()
    try:
        assert process.stdout.readline().startswith("connected ")
        yield process
    finally:
        process.terminate()


@pytest.mark.parametrize("option", PASSWORD_OPTIONS)
def test_a_running_connect_shows_no_secret(line: Line, option: str) -> None:
    secrets = [line.server.users["alice"].encode(), *line.server.users["alice"].encode().split()]
    with _connecting(line, option) as process:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            for file in ("cmdline", "environ", "comm"):
                shown = (task / file).read_bytes()
                assert not [secret for secret in secrets if secret in shown], file
        flows = line.qosctl("flows", "--json").stdout + line.qosctl("status", check=False).stdout
        process.terminate()
        stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 0
    for secret in secrets:
        assert secret.decode() not in stdout + stderr + flows


def test_a_traceback_shows_no_password(line: Line) -> None:
    url = f"https://{line.topology.server4}:{line.server.port}"
    words = ["connect", "--debug", url, "-u", "alice", "--servercert", line.server.pin, "--passwd-on-stdin"]
    said = line.qosctl(*words, check=False, stdin="hunter2-hunter2\n")
    assert "Traceback" in said.stderr
    assert "wrong password" in said.stderr
    assert "hunter2" not in said.stdout + said.stderr


def test_a_traceback_shows_no_cookie(line: Line) -> None:
    url = f"https://{line.topology.server4}:{line.server.port}"
    words = ["connect", "--debug", url, "--servercert", line.server.pin, "--cookie-on-stdin"]
    for cookie in ("QUJDREVGR0g=", "with a blank"):
        said = line.qosctl(*words, check=False, stdin=f"webvpn={cookie}\n")
        assert "Traceback" in said.stderr
        assert cookie not in said.stdout + said.stderr


def test_there_is_no_option_that_takes_a_password(line: Line) -> None:
    options = line.qosctl("connect", "--help").stdout
    assert "--password " not in options
    assert "--cookie " not in options
