"""What a server does to a session, and how soon packets flow again: restart, crash, kick, time-outs, new keys."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Connection, Ocserv
from tests.lab.testbed import TUNNEL, Line
from tests.lab.wiretap import Wiretap
from tests.system.flowing import EF_BYTE, Flowing, Row, note

_OCCTL = f"/tmp/qosctl-occtl-{os.getpid()}"
OCSERV = f"dpd = 2\nuse-occtl = true\nocctl-socket-file = {_OCCTL}\n"
BOUND_S = 15.0
"""Wider than the 5 s that are promised after a server is back: timings of a busy machine decide nothing."""
LOGIN_REFUSED, DISMISSED = 5, 6
_COOKIE_SLACK_S = 15
"""What ocserv adds to cookie-timeout."""


@pytest.fixture(scope="module", autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    yield
    Path(_OCCTL).unlink(missing_ok=True)


def _words(line: Line, *more: str) -> list[str]:
    server = line.server
    url = f"https://{line.topology.server4}:{server.port}"
    return ["connect", url, "--script", "none", "--servercert", server.pin, "-i", TUNNEL, *more]


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_server_that_comes_back_is_found_and_marks_are_right_from_the_first_record(
    attached: Line, tap: Wiretap, how: str
) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection, Flowing(attached.client, attached.server_namespace) as flow:
        (before,) = attached.qosctl.read("flows")["flows"]
        if how == "killed":
            for pid in attached.server.pids():
                os.kill(pid, signal.SIGKILL)
            connection.process.poll()
        attached.restart_server()
        back = time.monotonic()
        seconds = flow.wait(back)
        kept = flow.tcp_works()
        (after,) = attached.qosctl.read("flows")["flows"]
        assert before["local"]["port"] != after["local"]["port"]
        assert sum(n for name, n in after["statistics"].items() if name.startswith("reconnects_")) == 1
        assert "connected again over DTLS" in connection.errors
        carried = [record for record in tap.sent() if record.inner and record.inner.traffic_class == EF_BYTE]
        assert {record.frame.source_port for record in carried} == {before["local"]["port"], after["local"]["port"]}
        assert {record.frame.dscp for record in carried} == {46}
        lost = flow.lost()
    note(Row(f"server {how}", "connecting again ... connected again over DTLS", "server listens", seconds, lost, kept))
    assert kept
    assert seconds < BOUND_S


def test_somebody_who_is_thrown_out_is_told_and_stays_out(line: Line) -> None:
    with line.connected() as connection:
        line.server_namespace.run(["occtl", "-s", _OCCTL, "disconnect", "user", "alice"])
        assert connection.process.wait(10) == DISMISSED
        assert connection.errors.splitlines()[-1] == "qosctl: 10.91.2.2:4443: the server ended the session"
    note(Row("thrown out by the operator", "the server ended the session; exit 6", "", None, None, None))


def test_a_cookie_that_the_server_has_forgotten_is_the_end(line: Line, tmp_path: Path) -> None:
    words = _words(line, "--cookie-file", str(line.cookie_file(tmp_path)))
    with Connection(line.client, words) as connection:
        line.restart_server()
        assert connection.process.wait(20) == LOGIN_REFUSED
        last = connection.errors.splitlines()[-1]
    assert last == "qosctl: 10.91.2.2:4443: the server does not know the cookie any more (try: log in again)"
    note(Row("server restarted, cookie but no password", "the server does not know the cookie any more; exit 5",
             "", None, None, None))  # fmt: skip


def test_a_cookie_that_expires_while_the_network_is_away_is_the_end(line: Line, tmp_path: Path) -> None:
    address, port = line.topology.server4, 4444
    line.server.stop()
    try:
        more = f"{OCSERV}dpd = 1\ncookie-timeout = 2\nuse-occtl = false\n"
        with Ocserv(line.server_namespace, [address], port=port, more=more) as server:
            words = ["connect", f"https://{address}:{port}", "--script", "none", "--servercert", server.pin, "-i", TUNNEL]
            words += ["--cookie-file", str(line.cookie_file(tmp_path, server))]
            with Connection(line.client, words) as connection:
                with line.topology.dropping():
                    while any(link.startswith("vpns") for link in _links(line)):  # the server holds the session
                        time.sleep(0.1)
                    time.sleep(2 + _COOKIE_SLACK_S + 2)  # and then the cookie, for its time-out
                assert connection.process.wait(30) == LOGIN_REFUSED
                last = connection.errors.splitlines()[-1]
    finally:
        line.restart_server()
    assert last == f"qosctl: {address}:{port}: the server does not know the cookie any more (try: log in again)"
    note(Row("cookie expired, no password", "the server does not know the cookie any more; exit 5", "", None, None, None))


def _links(line: Line) -> list[str]:
    return [row.split()[0] for row in line.server_namespace.run(["ip", "-br", "link"]).stdout.splitlines()]


@pytest.mark.parametrize(
    ("method", "priorities"),
    [("new-tunnel", "NORMAL"), ("ssl", "NORMAL:-VERS-TLS1.3")],
    ids=["new-tunnel", "ssl"],
)
def test_new_keys_come_without_anybody_noticing(line: Line, method: str, priorities: str) -> None:
    more = f'{OCSERV}rekey-time = 5\nrekey-method = {method}\ntls-priorities = "{priorities}"\nuse-occtl = false\n'
    # A network of its own: the line's server has its addresses on the other device.
    line.server.stop()
    try:
        with (
            Ocserv(line.server_namespace, [line.topology.server4], port=4444, more=more) as server,
            line.qosctl.connect(server, line.topology.server4, "-i", TUNNEL) as connection,
            Flowing(line.client, line.server_namespace) as flow,
        ):
            connection.wait_for("time for new keys")
            seconds = flow.wait(time.monotonic())
            assert line.qosctl.statistics()["reconnects_rekey"] >= 1
            kept = flow.tcp_works()
            lost = flow.lost()
    finally:
        line.restart_server()
    note(Row(f"new keys ({method})", "time for new keys ... connected again over DTLS", "old session", seconds, lost, kept))
    assert kept


def test_time_that_is_up_means_another_login(line: Line) -> None:
    line.server.stop()
    try:
        more = f"{OCSERV}session-timeout = 4\nuse-occtl = false\n"
        with (
            Ocserv(line.server_namespace, [line.topology.server4], port=4444, more=more) as server,
            line.qosctl.connect(server, line.topology.server4, "-i", TUNNEL) as connection,
            Flowing(line.client, line.server_namespace) as flow,
        ):
            connection.wait_for("the server ended the session", 30)
            seconds = flow.wait(time.monotonic())
            assert line.qosctl.statistics()["reconnects_session_timeout"] == 1
            kept = flow.tcp_works()
            lost = flow.lost()
    finally:
        line.restart_server()
    note(Row("session time-out", "the server ended the session ... connected again", "its end", seconds, lost, kept))
    assert kept
