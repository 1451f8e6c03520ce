"""Servers that give no session, or none with DTLS: what the client does, says, and exits with."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Connection, Ocserv
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import TUNNEL, Line
from tests.system.flowing import Flowing

LOGIN_REFUSED, NO_ROOM = 5, 7
PORT = 4444
LOGGED = "log-level = 3\n"
NO_SESSION = LOGGED + "connect-script = /bin/false\n"
NO_ROOM_WORDS = (
    "the server takes the login and gives no session: it may have too many of this user, no address left, or a script of"
    " its own that failed"
)


@pytest.fixture
def quiet(line: Line) -> Iterator[Line]:
    """The line without its server, whose addresses another one may take."""
    line.server.stop()
    yield line
    line.restart_server()


def words(line: Line, server: Ocserv, *more: str, user: str = "alice") -> list[str]:
    login = ["-u", user, "--password-file", str(server.password_file(user)), "--servercert", server.pin]
    return ["connect", f"https://{line.topology.server4}:{server.port}", "--script", "none", *login, "-i", TUNNEL, *more]


def passwords(server: Ocserv) -> int:
    """How many passwords the server has been sent, by its log."""
    return server.log.count("sec-mod: auth cont for user")


@pytest.mark.audit
def test_a_server_that_has_no_room_is_asked_seldom_and_by_one_login(quiet: Line) -> None:
    """QC-06: 22 starts and 22 password logins in two minutes, each with the advice to log in again."""
    line = quiet
    with Ocserv(line.server_namespace, [line.topology.server4], port=PORT, more=NO_SESSION) as server:
        process = line.client.popen([str(COMMAND), *words(line, server)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            time.sleep(15)
            assert process.poll() is None
            tries = server.log.count("failed cookie authentication attempt")
            assert 2 <= tries <= 8, server.log
            assert passwords(server) == 1, server.log
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
    lines = errors.splitlines()
    assert lines[0].startswith(
        f"qosctl: {line.topology.server4}:{PORT}: {NO_ROOM_WORDS} (try: again later, or its operator)"
    )
    assert len(lines) <= 2
    assert process.returncode == 0


@pytest.mark.audit
def test_no_room_has_an_exit_code_for_who_does_not_want_to_wait(quiet: Line) -> None:
    line = quiet
    with Ocserv(line.server_namespace, [line.topology.server4], port=PORT, more=NO_SESSION) as server:
        said = line.client.run([str(COMMAND), *words(line, server, "--reconnect-timeout", "0")], check=False)
    assert said.returncode == NO_ROOM
    assert NO_ROOM_WORDS in said.stderr


@pytest.mark.audit
def test_a_running_tunnel_waits_for_room_and_comes_in_when_there_is_some(quiet: Line, tmp_path: Path) -> None:
    """QC-06 (e): the server is restarted, another device of the user is quicker, and the tunnel ended for good."""
    line, full = quiet, tmp_path / "full"
    tmp_path.chmod(0o711)
    script = tmp_path / "connect"
    script.write_text(f"#!/bin/sh\n[ ! -e {full} ]\n")
    script.chmod(0o755)
    with Ocserv(
        line.server_namespace, [line.topology.server4], port=PORT, more=LOGGED + f"connect-script = {script}\n"
    ) as server:
        with Connection(line.client, words(line, server)) as connection:
            full.touch()
            server.restart()
            connection.wait_for(NO_ROOM_WORDS, 40)
            time.sleep(5)
            full.unlink()
            connection.wait_for("connected again over DTLS", 40)
            line.client.run(["ping", "-c", "1", "-W", "5", server.inner4])
        assert passwords(server) == 2, server.log


@pytest.mark.audit
def test_a_password_that_is_refused_is_sent_once(quiet: Line) -> None:
    """QC-01: the server is restarted, and the password is not the right one any more."""
    line = quiet
    with Ocserv(line.server_namespace, [line.topology.server4], port=PORT, more=LOGGED + "dpd = 2\n") as server:
        with Connection(line.client, words(line, server)) as connection:
            server.change_password("alice", "another one")
            server.restart()
            assert connection.process.wait(30) == LOGIN_REFUSED
            assert connection.errors.splitlines()[-1] == "qosctl: alice: wrong password"
        assert passwords(server) == 2, server.log  # the right one, and the one that is not any more


@pytest.mark.audit
def test_a_server_that_comes_back_without_dtls_keeps_the_tunnel(quiet: Line) -> None:
    """Finding 20, QC-16: exit 2, although TLS would carry it."""
    line = quiet
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=PORT, more="dpd = 2\n") as server,
        Connection(line.client, words(line, server)) as connection,
        Flowing(line.client, line.server_namespace) as flow,
    ):
        server.reconfigure(dtls=False)
        server.restart()
        connection.wait_for("connected again over TLS", 40)
        flow.wait(time.monotonic())
        assert flow.tcp_works()
        assert connection.errors.count("the server offers no DTLS: packets go over TLS, unmarked\n") == 1
        server.reconfigure(dtls=True)
        server.restart()
        connection.wait_for("connected again over DTLS", 40)
        assert flow.tcp_works()


@pytest.mark.audit
def test_a_server_without_dtls_carries_a_new_tunnel_too(quiet: Line) -> None:
    line = quiet
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=PORT, dtls=False) as server,
        Connection(line.client, words(line, server)) as connection,
    ):
        line.client.run(["ping", "-c", "1", "-W", "5", server.inner4])
        assert connection.errors == "qosctl: the server offers no DTLS: packets go over TLS, unmarked\n"
        assert "TLSv1.3" in connection.output
