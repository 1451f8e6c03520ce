"""What is left of root when the client has given it up, and that everything works without it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from qosctl.supervisor.process import privileges

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.lab.wiretap import Wiretap
from tests.system.traces import ip, pins

OCSERV = "dpd = 3\n"
USAGE, NO_PERMISSION = 1, 4
NOBODY = "65534"
CAPABILITIES = ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")
EF_BYTE = 184


def words(line: Line, *more: str) -> list[str]:
    return line.words("--setuid", "nobody", *(more or ("--script", "none")))


def status(pid: int) -> dict[str, list[str]]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (row.partition(":") for row in rows)}


def access(pid: int, descriptor: str) -> int:
    """How a process may use what it has open: the access mode of open(2)."""
    (flags,) = re.findall(r"^flags:\s+([0-7]+)$", Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(), re.MULTILINE)
    return int(flags, 8) & os.O_ACCMODE


def reconnected(line: Line) -> bool:
    """Whether the one tunnel has had another session before."""
    said = line.qosctl("flows", "--json", check=False).stdout
    flows = json.loads(said).get("flows", [])
    return any(count for flow in flows for name, count in flow["statistics"].items() if name.startswith("reconnects_"))


def remembers(pid: int, secret: bytes) -> bool:
    """Whether a process has `secret` anywhere in the memory it can write."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for row in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = row.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(text, 16) for text in span.split("-"))
            memory.seek(start)
            try:
                if secret in memory.read(end - start):
                    return True
            except OSError:  # of a device
                continue
    return False


@pytest.mark.audit
def test_no_capability_is_left_and_no_way_to_any(line: Line) -> None:
    with Connection(line.client, words(line)) as connection:
        pid = connection.process.pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            said = status(int(task.name))
            assert said["Uid"] == said["Gid"] == [NOBODY] * 4
            assert said["Groups"] == []
            assert said["NoNewPrivs"] == ["1"]
            assert [int(said[name][0], 16) for name in CAPABILITIES] == [0] * 5
        assert re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0  # so nobody else of its user may look into it
        opened = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 - no path
        assert not [name for name in opened.values() if name.startswith(("/sys", "/run", "/etc"))]
        maps = [number for number, name in opened.items() if "bpf-map" in name]
        # Its own ring, and the operator's switch to look at.
        assert sorted(access(pid, number) for number in maps) == [os.O_RDONLY, os.O_RDWR]


@pytest.mark.audit
def test_who_stays_root_keeps_no_capability_either(line: Line) -> None:
    """Finding 17: what takes a privilege, the helper does for everybody."""
    with Connection(line.client, line.words("--script", "none")) as connection, Inside(line) as inside:
        for task in Path(f"/proc/{connection.process.pid}/task").iterdir():
            said = status(int(task.name))
            assert said["Uid"] == ["0"] * 4
            assert said["NoNewPrivs"] == ["1"]
            assert [int(said[name][0], 16) for name in CAPABILITIES] == [0] * 5
        assert inside.works_both_ways(b"through")


@pytest.mark.audit
def test_the_helper_keeps_what_it_needs(line: Line) -> None:
    """Finding 11: it kept everything it was started with. It has no terminal, pipe or session of its client's either."""
    needed = sum(1 << number for number in privileges.HELPERS)
    with Connection(line.client, words(line)) as connection:
        pid = connection.helper
        said = status(pid)
        assert said["NoNewPrivs"] == ["1"]
        for name in CAPABILITIES:
            assert int(said[name][0], 16) & ~needed == 0
        assert os.getsid(pid) == pid
        for number in (0, 1):
            assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"  # noqa: PTH115 - no path comes out


def test_a_reconnect_marks_as_before(attached: Line, tap: Wiretap) -> None:
    line = attached
    line.qosctl("passtos", "on")
    with Connection(line.client, words(line)) as connection, Inside(line) as inside:
        (before,) = line.qosctl.read("flows")["flows"]
        line.restart_server()
        connection.wait_for("connected again over DTLS")
        (after,) = line.qosctl.read("flows")["flows"]
        assert before["local"] != after["local"]
        assert after["owner"]["pid"] == connection.process.pid
        assert after["statistics"]["reconnects_server_closed"] + after["statistics"]["reconnects_server_goodbye"] == 1
        tap.forget()
        inside.send(b"marked", traffic_class=EF_BYTE)
        assert inside.arrived(1) == [b"marked"]
        carried = tap.wait_for(lambda: [r for r in tap.sent() if r.inner and r.inner.payload == b"marked"], bool)
        assert {record.frame.dscp for record in carried} == {46}


@pytest.mark.audit
def test_whom_to_trust_is_read_once_and_by_root(line: Line, tmp_path: Path) -> None:
    """Finding 20: the file was read after root was given up, and again at each reconnect."""
    ours = tmp_path / "ca.pem"
    ours.write_bytes(line.server.ca.read_bytes())
    ours.chmod(0o600)
    login = ["-u", "alice", "--password-file", str(line.server.password_file("alice")), "--ca", str(ours)]
    url = f"https://{line.topology.server4}:{line.server.port}"
    with Connection(line.client, ["connect", url, *login, "--setuid", "nobody", "--script", "none"]) as connection:
        ours.unlink()
        line.restart_server()
        connection.wait_for("connected again over DTLS")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=lambda sign: sign.name)
def test_the_end_leaves_nothing_whatever_end_it_is(line: Line, sign: signal.Signals) -> None:
    """Even a kill: whoever kept root for the client sees it go."""
    with Connection(line.client, words(line, "--script", "/usr/share/vpnc-scripts/vpnc-script")) as connection:
        keeper = connection.helper
        assert pins(line.client)
        connection.process.send_signal(sign)
        connection.process.wait(10)
        until(lambda: not Path(f"/proc/{keeper}").exists())
        assert pins(line.client) == []
        devices = {route["dev"] for route in ip(line.client, "route")}
        assert devices == {line.device}
        assert len(ip(line.client, "route")) == 2
    assert line.qosctl("unblock").stdout.startswith("nothing" if sign == signal.SIGINT else "let out again")


def test_when_both_were_killed_the_next_start_cleans_up(line: Line) -> None:
    script = ("--script", "/usr/share/vpnc-scripts/vpnc-script")
    with Connection(line.client, words(line, *script)) as connection:
        connection.kill_both()
    assert pins(line.client)
    with Connection(line.client, words(line, *script)) as connection:
        assert f"undoing the routes and DNS of {TUNNEL}, whose client was killed" in connection.errors
        assert len(line.qosctl.read("flows")["flows"]) == 1
    assert pins(line.client) == []


def test_without_its_helper_a_client_goes_on_unmarked(line: Line) -> None:
    with Connection(line.client, words(line)) as connection, Inside(line) as inside:
        os.kill(connection.helper, signal.SIGKILL)
        line.restart_server()
        connection.wait_for("connected again over DTLS")
        assert inside.works_both_ways(b"through")
        assert connection.errors.count("the helper is gone") == 1
    assert line.qosctl("flows", check=False).stdout.count("is dead") == 1
    with line.connected():  # and this one clears it
        pass


def test_whoever_stays_root_never_knew_the_password(line: Line) -> None:
    secret = line.server.users["alice"].encode()
    with Connection(line.client, words(line)) as connection:
        assert remembers(connection.process.pid, secret)  # it must log in again after a restart of the server
        assert not remembers(connection.helper, secret)


def test_a_helper_that_nobody_listens_to_still_cleans_up(line: Line) -> None:
    """Its last words would go into a pipe that the terminal's end has closed."""
    argv = [str(COMMAND), *words(line, "--script", "/usr/share/vpnc-scripts/vpnc-script")]
    process = line.client.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert [process.stdout.readline().split()[0] for _ in range(3)] == ["connected", "outer", "records"]
    process.stdout.close()
    process.stderr.close()
    line.restart_server()  # of which there is something to say
    until(lambda: reconnected(line))
    process.kill()
    process.wait()
    until(lambda: not pins(line.client))
    until(lambda: {route["dev"] for route in ip(line.client, "route")} == {line.device})
    line.qosctl("unblock")  # what belonged inside, which stays blocked after such an end


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("no-such-user", USAGE, "connect: no-such-user: no such user (try: getent passwd)"),
        ("root", USAGE, "connect: root: becoming root gives nothing up (try: --setuid nobody)"),
    ],
)
def test_whom_nobody_can_become(line: Line, name: str, code: int, said: str) -> None:
    done = line.qosctl(*words(line, "--script", "none", "--setuid", name), check=False)
    assert (done.returncode, done.stderr) == (code, f"qosctl: {said}\n")


def test_who_is_not_root_cannot_become_another(line: Line) -> None:
    few = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups", "--inh-caps=+dac_read_search"]
    argv = [*few, "--ambient-caps=+dac_read_search", str(COMMAND), *words(line)]
    done = line.client.run(argv, check=False)
    assert (done.returncode, done.stderr) == (NO_PERMISSION, "qosctl: becoming nobody needs root (try: run it as root)\n")
