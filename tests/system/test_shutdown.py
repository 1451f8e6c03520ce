"""However a connection ends, the next one finds a clean machine."""

import os
import signal
from pathlib import Path

import pytest
from qosctl.supervisor.tunnel.vpnc_script import USUAL

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.qosctl import COMMAND
from tests.lab.terminal import Terminal
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.lab.wiretap import ALERT, Record, Wiretap
from tests.system.traces import ip, pins, traces

SERVER_TUNNEL = "vpns"  # with a number


def _devices(line: Line) -> list[str]:
    return [device["ifname"] for device in ip(line.client, "link")]


def _sessions(line: Line) -> int:
    """Count the sessions at the server: each has a tunnel device."""
    return sum(device["ifname"].startswith(SERVER_TUNNEL) for device in ip(line.server_namespace, "link"))


@pytest.mark.audit
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sign: sign.name)
def test_a_signal_ends_it_with_a_goodbye_and_no_traces(line: Line, tap: Wiretap, sign: signal.Signals) -> None:
    def goodbye() -> list[Record]:
        return [record for record in tap.sent() if record.content_type == ALERT]

    assert pins(line.client) == []
    with line.connected() as connection:
        assert _sessions(line) == 1
        assert len(line.qosctl.read("flows")["flows"]) == 1
        connection.process.send_signal(sign)
        assert connection.process.wait(5) == 0
        assert connection.errors == ""
    assert TUNNEL not in _devices(line)
    assert pins(line.client) == []
    assert line.qosctl("flows", check=False).returncode == 3
    until(lambda: _sessions(line) == 0, 5)
    assert [record.plaintext for record in tap.wait_for(goodbye, bool)] == [b"\x01\x00"]  # warning, close_notify


@pytest.mark.audit
def test_a_window_that_closes_ends_it_as_ctrl_c_does(line: Line, tap: Wiretap) -> None:
    """Finding 6: the goodbye, the script's disconnect, and the flow's entry."""
    before = traces(line.client)
    words = line.words("--script", str(USUAL[0]))
    with Terminal(line.client, [str(COMMAND), *words]) as terminal:
        terminal.wait_for(b"connected ")
        assert traces(line.client) != before
        terminal.close()
        assert terminal.wait(10) == 0
        assert traces(line.client) == before
    until(lambda: _sessions(line) == 0, 5)
    assert [each.plaintext for each in tap.wait_for(lambda: [r for r in tap.sent() if r.content_type == ALERT], bool)]


@pytest.mark.audit
@pytest.mark.parametrize(
    ("closed", "numbers"), [("<&-", [0]), (">&-", [1]), ("<&- >&- 2>&-", [0, 1, 2])], ids=["0", "1", "all"]
)
def test_what_is_closed_at_the_start_is_nothing_and_no_socket_or_record(
    line: Line, closed: str, numbers: list[int]
) -> None:
    """Finding 6: the helper closes 0 and 1, and the script writes to 2, whatever has these numbers by then."""
    before = traces(line.client)
    words = [str(COMMAND), *line.words("--script", str(USUAL[0]))]
    process = line.client.popen(["sh", "-c", f'exec "$@" {closed}', "sh", *words])
    try:
        until(lambda: traces(line.client)["routes"] != before["routes"], 20)
        for each in numbers:
            assert os.readlink(f"/proc/{process.pid}/fd/{each}") == os.devnull  # noqa: PTH115 - no path comes out
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert traces(line.client) == before


def test_under_nohup_a_window_that_closes_ends_nothing(line: Line, inside: Inside) -> None:
    command = ("nohup", str(COMMAND))
    with Connection(line.client, line.words("--script", "none"), command=command) as connection:
        connection.process.send_signal(signal.SIGHUP)
        assert inside.works_both_ways(b"after it")
        assert connection.process.poll() is None


def test_the_pins_stay_while_something_is_attached(attached: Line) -> None:
    before = pins(attached.client)
    with attached.connected():
        pass
    assert pins(attached.client) == before
    assert attached.qosctl.read("status")["flows"] == 0


def test_the_server_forgets_the_cookie_after_a_goodbye(line: Line, tmp_path: Path) -> None:
    server, address = line.server, line.topology.server4
    words = ["connect", f"https://{address}:{server.port}", "--servercert", server.pin, "--script", "none"]
    words += ["--cookie-file", str(line.cookie_file(tmp_path))]

    with Connection(line.client, words) as connection:
        assert connection.stop(signal.SIGINT) == 0
    until(lambda: _sessions(line) == 0, 5)
    again = line.qosctl(*words, check=False)
    assert again.returncode == 5
    assert again.stderr.startswith(f"qosctl: {address}:{server.port}: the server ")


@pytest.mark.audit
def test_a_killed_client_leaves_nothing_since_its_helper_undoes_it(line: Line) -> None:
    """Finding 6 and its kind: the OOM killer, a traceback, SIGKILL."""
    before = traces(line.client)
    with Connection(line.client, line.words("--script", str(USUAL[0]), "--kill-switch", "off")) as connection:
        assert traces(line.client) != before
        helper = Path(f"/proc/{connection.helper}")
        connection.process.kill()
        connection.process.wait()
        until(lambda: not helper.exists(), 10)
        assert traces(line.client) == before


def test_a_client_killed_with_its_helper_leaves_a_flow_that_is_shown_as_dead_and_cleared_by_the_next(
    attached: Line, inside: Inside
) -> None:
    with attached.connected() as connection:
        connection.kill_both()
        pid = connection.process.pid
        assert TUNNEL not in _devices(attached)
        assert f"{TUNNEL}: 10.91.2.2:4443, pid {pid} is dead" in attached.qosctl("flows").stdout
        (flow,) = attached.qosctl.read("flows")["flows"]
        assert (flow["owner"]["pid"], flow["owner"]["alive"]) == (pid, False)
        assert "flows 0" in attached.qosctl("status").stdout
    until(lambda: _sessions(attached) == 0, 5)
    with attached.connected() as connection:
        (flow,) = attached.qosctl.read("flows")["flows"]
        assert (flow["owner"]["pid"], flow["owner"]["alive"]) == (connection.process.pid, True)
        assert inside.works_both_ways(b"after the dead one")


def test_without_a_program_they_leave_pins_that_the_next_one_takes_away(line: Line) -> None:
    with line.connected() as connection:
        connection.kill_both()
    assert pins(line.client) != []
    with line.connected():
        assert len(line.qosctl.read("flows")["flows"]) == 1
    assert pins(line.client) == []


def test_the_server_going_away_ends_it_with_one_line_where_that_is_wanted(line: Line) -> None:
    with line.connected(4, "--reconnect-timeout", "0") as connection:
        line.server.stop()
        status = connection.process.wait(10)
        errors = connection.errors
    line.restart_server()
    assert status == 3
    assert errors.startswith("qosctl: 10.91.2.2:4443: the server ")
    assert errors.count("\n") == 1
    assert TUNNEL not in _devices(line)


def test_the_device_being_deleted_ends_it_with_one_line(line: Line) -> None:
    with line.connected() as connection:
        line.client.run(["ip", "link", "del", "dev", TUNNEL])
        assert connection.process.wait(5) == 3
        assert connection.errors == f"qosctl: {TUNNEL}: the device is gone (try: connect again)\n"
    until(lambda: _sessions(line) == 0, 5)


def test_detach_under_a_running_tunnel_leaves_it_running(line: Line, inside: Inside) -> None:
    with line.connected():
        with line.attached():
            pass
        assert inside.works_both_ways(b"nothing attached any more")
