"""Starts that must not be: a second client for a device, and secrets that others can read."""

import time
from pathlib import Path

import pytest

from tests.lab.testbed import TUNNEL, Line
from tests.system.flowing import Flowing, Row, note

REFUSED = 2


def test_a_second_client_for_a_device_is_refused_and_the_first_goes_on(line: Line) -> None:
    server = line.server
    url = f"https://{line.topology.server4}:{server.port}"
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
    with line.connected() as connection, Flowing(line.client, line.server_namespace) as flow:
        (before,) = line.qosctl.read("flows")["flows"]
        began = time.monotonic()
        second = line.qosctl("connect", url, "--script", "none", *login, "-i", TUNNEL, check=False)
        assert second.returncode == REFUSED
        assert second.stdout == ""
        assert second.stderr.startswith(f"qosctl: {TUNNEL}: qosctl connect runs on it already, as process ")
        assert second.stderr.count("\n") == 1
        seconds = flow.wait(began)
        (after,) = line.qosctl.read("flows")["flows"]
        assert (before["local"], before["owner"]["pid"]) == (after["local"], after["owner"]["pid"])
        kept, lost = flow.tcp_works(), flow.lost()
        assert connection.errors == ""
    words = "qosctl connect runs on it already; exit 2. The first goes on"
    note(Row("second client for the same device", words, "its start", seconds, lost, kept))
    assert kept


@pytest.mark.parametrize("option", ["--password-file", "--cookie-file"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_secret_that_others_can_read_is_not_used(line: Line, tmp_path: Path, option: str, mode: int) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open-secret\n")
    secret.chmod(mode)
    url = f"https://{line.topology.server4}:{line.server.port}"
    said = line.qosctl("connect", url, "--script", "none", "-u", "alice", option, str(secret), check=False)
    assert said.returncode == REFUSED
    assert said.stderr == f"qosctl: {secret}: others than its owner can read or change it (try: chmod 600 {secret})\n"
    assert "open-secret" not in said.stdout
    note(
        Row("secret file that others can read", "others than its owner can read or change it; exit 2", "", None, None, None)
    )
