"""Routes and DNS: as the server says, by the distribution's script, and all undone at the end, whatever end that is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.dtls.transport.outer_sockets import MARK
from qosctl.supervisor.tunnel.vpnc_script import USUAL

from tests.lab import Connection, Ocserv
from tests.lab.inside import Inside
from tests.lab.openconnect import Openconnect
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.traces import traces

OCSERV = """
dns = 192.168.77.53
dns = fd77::53
nbns = 192.168.77.54
default-domain = example.test
split-dns = corp.test
split-dns = two.test
route = 10.20.0.0/255.255.0.0
route = 10.30.1.0/255.255.255.0
route = fd20::/48
no-route = 10.20.5.0/255.255.255.0
no-route = fd20:0:0:5::/64
idle-timeout = 1200
banner = "Welcome; to `x` $(y)"
dpd = 3
"""
HOSTILE = """
dns = 127.0.0.1
default-domain = "a;touch"
route = 127.0.0.0/255.0.0.0
route = 169.254.0.0/255.255.0.0
route = 224.0.0.0/240.0.0.0
route = 10.91.2.2/255.255.255.255
banner = "\\\\033[2J"
"""
RECORD = 'env -0 >>"{0}"; printf "\\0" >>"{0}"\n'
OWN = ("mark", str(MARK))
RESOLV = "nameserver 10.255.255.53\n"


@pytest.fixture(autouse=True)
def resolv_conf(tmp_path: Path) -> Iterator[Path]:
    """The sandbox's own resolv.conf, which must be at the end what it was."""
    ours = tmp_path / "resolv.conf"
    ours.write_text(RESOLV)
    subprocess.run(["mount", "--bind", ours, "/etc/resolv.conf"], check=True)
    try:
        yield ours
        assert ours.read_text() == RESOLV
    finally:
        subprocess.run(["umount", "/etc/resolv.conf"], check=True)


@pytest.fixture(name="full", scope="module")
def full_fixture(line: Line) -> Iterator[Ocserv]:
    """A server that names no networks, and so means all."""
    with Ocserv(line.server_namespace, [line.topology.server4], port=4445, more="dpd = 3\n") as made:
        yield made


def words(line: Line, server: Ocserv, *more: str) -> list[str]:
    url = f"https://{line.topology.server4}:{server.port}"
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
    return ["connect", url, *login, "-i", TUNNEL, *more]


def a_script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def calls(path: Path) -> list[dict[str, str]]:
    """Return the environments that RECORD wrote."""
    blocks = path.read_text().split("\0\0")[:-1]
    return [dict(entry.split("=", 1) for entry in block.split("\0")) for block in blocks]


def way(line: Line, address: str, *more: str) -> str:
    """The device that packets to `address` leave by."""
    (route,) = json.loads(line.client.run(["ip", "-j", "route", "get", address, *more]).stdout)
    return str(route["dev"])


def own_way(line: Line) -> str:
    """The device that the tunnel's own packets leave by."""
    return way(line, line.topology.server4, *OWN)


def like_openconnects(environment: dict[str, str]) -> dict[str, object]:
    """Return what the script is told, without what may differ: names, numbers, and the order of the server's lists."""
    told = {key: value for key, value in environment.items() if key.startswith(("CISCO_", "INTERNAL_", "IDLE", "LOG_"))}
    told = {key: value for key, value in told.items() if key != "CISCO_CSTP_OPTIONS"}  # the server's words as they came
    lists = ("_SPLIT_INC_", "_SPLIT_EXC_")
    networks = sorted(
        (
            key.partition("_SPLIT_")[0],
            key[:-5],
            told[key],
            told[key.replace("ADDR", "MASKLEN")],
            told.get(key[:-4] + "MASK"),
        )
        for key in told
        if key.endswith("_ADDR") and any(each in key for each in lists)
    )
    rest = {key: value for key, value in told.items() if not any(each in key for each in lists)}
    rest["CISCO_SPLIT_DNS"] = ",".join(sorted(rest["CISCO_SPLIT_DNS"].split(",")))
    unordered = sorted((family, key.rstrip("0123456789"), *values) for family, key, *values in networks)
    return {**rest, "networks": unordered, "VPNGATEWAY": environment["VPNGATEWAY"]}


def test_the_environment_is_openconnects(line: Line, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with Openconnect(line.client, line.server, line.topology.server4, device=TUNNEL, also=RECORD.format(theirs)):
        pass
    script = a_script(tmp_path / "script", RECORD.format(ours))
    os.environ["CISCO_SPLIT_INC"] = "7"  # whose words these are, the script cannot know
    try:
        with Connection(line.client, words(line, line.server, "--script", script)) as connection:
            pid = connection.process.pid
    finally:
        del os.environ["CISCO_SPLIT_INC"]
    assert [call["reason"] for call in calls(ours)] == ["pre-init", "connect", "disconnect"]
    assert [call["reason"] for call in calls(theirs)] == ["pre-init", "connect", "disconnect"]
    for our, their in zip(calls(ours), calls(theirs), strict=True):
        assert like_openconnects(our) == like_openconnects(their)
        assert (our["TUNDEV"], our["VPNPID"]) == (TUNNEL, str(pid))


@pytest.mark.parametrize("setuid", [(), ("--setuid", "nobody")], ids=["root", "nobody"])
def test_split_routes_and_names_come_and_go(line: Line, resolv_conf: Path, setuid: tuple[str, ...]) -> None:
    before = traces(line.client)
    with Connection(line.client, words(line, line.server, *setuid)) as connection:
        inside = [way(line, address) for address in ("10.20.1.1", "10.30.1.1", "fd20::1", Ocserv.inner4)]
        outside = [way(line, address) for address in ("10.20.5.1", "10.30.2.1", "fd20:0:0:5::1", line.topology.server4)]
        assert (set(inside), set(outside)) == ({TUNNEL}, {line.device})
        assert "nameserver 192.168.77.53\nnameserver fd77::53\nsearch example.test" in resolv_conf.read_text()
        assert "Welcome; to `x` $(y)" in connection.errors
        with Inside(line) as both:
            assert both.works_both_ways(b"through")
    assert traces(line.client) == before
    assert resolv_conf.read_text() == RESOLV


def test_a_server_that_names_nothing_gets_all_and_stays_reachable(line: Line, full: Ocserv) -> None:
    before = traces(line.client)
    with Connection(line.client, words(line, full)) as connection:
        assert (way(line, "198.51.100.1"), own_way(line)) == (TUNNEL, line.device)
        full.restart()
        connection.wait_for("connected again")
        assert (way(line, "198.51.100.1"), own_way(line)) == (TUNNEL, line.device)
    assert traces(line.client) == before


def test_a_network_that_goes_takes_the_way_to_the_server_with_it_and_brings_it_back(line: Line, full: Ocserv) -> None:
    """With a default route into the tunnel, what is left in main leads the client's own packets into its own tunnel."""
    client, device = line.client, line.device
    with Connection(client, words(line, full)) as connection, Inside(line) as inside:
        client.run(["ip", "link", "set", "dev", device, "down"])
        connection.wait_for("connecting again")
        assert client.run(["ip", "route", "show", "default"]).stdout.split()[2] == TUNNEL
        assert (
            client.run(["ip", "route", "get", line.topology.server4, *OWN], check=False).returncode != 0
        )  # and never does
        client.run(["ip", "link", "set", "dev", device, "up"])
        client.run(["ip", "route", "add", "default", "via", "10.91.1.1", "dev", device, "metric", "100"])
        connection.wait_for("connected again")
        assert (way(line, "198.51.100.1"), own_way(line)) == (TUNNEL, device)
        assert inside.works_both_ways(b"through")
    client.run(["ip", "route", "del", "default", "via", "10.91.1.1", "metric", "100"])
    client.run(["ip", "addr", "replace", "fd91:1::2/64", "dev", device, "nodad"])
    client.run(["ip", "route", "replace", "default", "via", "fd91:1::1"])


def test_without_a_script_there_is_only_an_address(line: Line, resolv_conf: Path) -> None:
    with Connection(line.client, words(line, line.server, "--script", "none")) as connection:
        assert way(line, "10.20.1.1") == line.device
        assert way(line, Ocserv.inner4) == TUNNEL
        assert resolv_conf.read_text() == RESOLV
        assert connection.errors == ""


@pytest.mark.parametrize("next_one", [(), ("--script", "none")], ids=["split_then_script", "all_then_none"])
def test_what_a_killed_client_left_is_undone_by_the_next(line: Line, full: Ocserv, next_one: tuple[str, ...]) -> None:
    before = traces(line.client)
    server = full if next_one else line.server
    with Connection(line.client, words(line, server)) as connection:
        connection.kill_both()
    assert traces(line.client)["routes"] != before["routes"]
    (orphan,) = line.qosctl.read("flows")["flows"]
    assert orphan["owner"]["alive"] is False
    with Connection(line.client, words(line, server, *next_one)) as connection:
        assert f"undoing the routes and DNS of {TUNNEL}, whose client was killed" in connection.errors
        assert len(line.qosctl.read("flows")["flows"]) == 1
        assert ("is still blocked (try: qosctl unblock)" in connection.errors) == bool(next_one)
    line.qosctl("unblock")  # which a start without routes does not take over
    assert traces(line.client) == before


def test_a_server_that_asks_for_what_is_not_its_own(line: Line, resolv_conf: Path) -> None:
    with Ocserv(line.server_namespace, [line.topology.server4], port=4446, more=HOSTILE) as server:
        before = traces(line.client)
        with Connection(line.client, words(line, server)) as connection:
            ways = [way(line, address) for address in ("198.51.100.1", "169.254.1.1", line.topology.server4)]
            assert ways == [line.device] * 3
            assert way(line, "127.1.2.3") == "lo"
            assert resolv_conf.read_text() == RESOLV
            assert "3 of the server's routes are left out: none that a VPN may set" in connection.errors
            assert "\x1b" not in connection.errors
        assert traces(line.client) == before


def test_packets_do_not_wait_for_the_script(line: Line, tmp_path: Path) -> None:
    """It is slow to see a session that came back; packets flow all the while."""
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    wait = f'touch "{begun}"; while [ ! -e "{go_on}" ]; do sleep 0.05; done'
    script = a_script(tmp_path / "script", f'if [ "$reason" = reconnect ]; then {wait}; fi\nexec {USUAL[0]}\n')
    with Connection(line.client, words(line, line.server, "--script", script)) as connection, Inside(line) as inside:
        line.restart_server()
        until(lambda: "connected again" in connection.errors and begun.exists())
        assert inside.works_both_ways(b"through")
        go_on.touch()


@pytest.mark.audit
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda sign: sign.name)
def test_whatever_ends_the_client_the_machine_is_as_it_was(line: Line, resolv_conf: Path, sign: signal.Signals) -> None:
    """Finding 6: routes, rules, names, devices, pins and what is remembered."""
    before, remembered = traces(line.client), sorted(Path("/run/qosctl").glob("*"))
    with Connection(line.client, words(line, line.server, "--kill-switch", "off")) as connection:
        helper = Path(f"/proc/{connection.helper}")
        assert traces(line.client) != before
        assert resolv_conf.read_text() != RESOLV
        connection.process.send_signal(sign)
        connection.process.wait(20)
        until(lambda: not helper.exists())
        assert traces(line.client) == before
        assert resolv_conf.read_text() == RESOLV
        assert sorted(Path("/run/qosctl").glob("*")) == remembered
        assert "Cannot find device" not in connection.errors, "the script was called while the device was there"


@pytest.mark.audit
def test_a_script_that_nobody_reads_any_more_undoes_all_the_same(line: Line, resolv_conf: Path, tmp_path: Path) -> None:
    """Ctrl-C in `qosctl connect 2>&1 | tee log` ends tee first, and what the script says then meets a closed pipe."""
    script = a_script(tmp_path / "script", f'echo "about to $reason"\n. {USUAL[0]}\n')
    before = traces(line.client)
    argv = [str(COMMAND), *words(line, line.server, "--script", script)]
    process = line.client.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("connected ")
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert traces(line.client) == before
    assert resolv_conf.read_text() == RESOLV


def test_a_script_that_fails_costs_a_line(line: Line, tmp_path: Path) -> None:
    script = a_script(tmp_path / "script", f"{USUAL[0]}; exit 7\n")
    with Connection(line.client, words(line, line.server, "--script", script)) as connection, Inside(line) as inside:
        assert f"qosctl: {script}: connect: exit status 7" in connection.errors.splitlines()
        assert inside.works_both_ways(b"through")
