"""What people get wrong in their first session is said, and done all the same where it might be meant."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from qosctl.supervisor.cli.commands import status
from qosctl.supervisor.cli.main import main
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.output.exit_codes import Exit

from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, devices


def test_attaching_to_the_tunnel_itself_says_that_its_records_leave_elsewhere(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    attach([NEAR])
    stand.sender.run(["ip", "tuntap", "add", "tun-test", "mode", "tun"])
    with stand.tunnel():
        assert main(["attach", NEAR, "tun-test"], io.StringIO(), io.StringIO()) == Exit.FINE
    assert set(devices()) == {NEAR, "tun-test"}
    said = capsys.readouterr().err
    assert said.startswith("qosctl: tun-test: this is a tunnel; ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["attach", "--help"]])
def test_help_onto_a_full_disk_is_a_line_and_into_a_closed_pipe_none(words: list[str], buffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}

    def run(stdout: int) -> tuple[int, str]:
        argv = [str(COMMAND), *words]
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    with Path("/dev/full").open("w") as full:
        assert run(full.fileno()) == (2, "qosctl: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert run(writer) == (0, "")
    os.close(writer)


def test_what_the_system_refuses_is_said_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> int:
        return len((tmp_path / "gone").read_bytes())

    monkeypatch.setattr(status, "run", run)
    err = io.StringIO()
    assert main(["status"], io.StringIO(), err) == Exit.REFUSED
    assert err.getvalue() == f"qosctl: {tmp_path}/gone: No such file or directory\n"
