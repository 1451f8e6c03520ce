"""What the server's routes put inside leaves by no other way, whatever becomes of the tunnel, until the user ends it.

Both IP versions are inside, and the machine has default routes of its own for both: what is let out reaches somebody.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.supervisor.kill_switch.plan import FIRST_TABLE, SLOTS
from qosctl.supervisor.tunnel.vpnc_script import USUAL

from tests.lab import Connection, Ocserv
from tests.lab.testbed import TUNNEL, Line
from tests.system.leaks import OUTSIDE, Leaks
from tests.system.traces import traces

OCSERV = "dpd = 3\n"
SPLIT = "dpd = 3\nroute = 203.0.113.0/255.255.255.0\nroute = 2001:db8::/48\n"
OTHER = "ipv4-network = 192.168.78.0\nipv6-network = fd78::/64\n"
ROUTER = {4: "10.91.1.1", 6: "fd91:1::1"}
LAN = ROUTER[4]
BLOCKED = "what belonged in vpn0 is blocked until it is connected again (try: qosctl unblock)"
USAGE = 1


def words(line: Line, *more: str, server: Ocserv | None = None, outer: int = 4) -> list[str]:
    server, address = server or line.server, line.topology.server_address(outer)
    host = f"[{address}]" if ":" in address else address
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
    return ["connect", f"https://{host}:{server.port}", *login, "-i", TUNNEL, *more]


def kill(connection: Connection) -> None:
    connection.process.kill()
    connection.process.wait()


def clear(line: Line) -> None:
    """Undo what a killed client has left: a start and its end do that."""
    with Connection(line.client, words(line)):
        pass
    line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])


def reaches(line: Line, address: str) -> bool:
    return line.client.run(["ping", "-c", "1", "-W", "1", address], check=False).returncode == 0


def refused(line: Line, version: int) -> bool:
    """Whether a packet to the outside is answered with an error, as soon as the device of a dead client is gone."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with line.client.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((OUTSIDE[version], 9))
            except OSError:
                return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def default_routes(line: Line) -> Iterator[None]:
    """Have somebody, as a DHCP client and router advertisements do, set default routes better than any other."""
    more = (
        ["ip", "-4", "route", "replace", "default", "via", ROUTER[4]],
        ["ip", "-4", "route", "replace", "0.0.0.0/1", "via", ROUTER[4]],
        ["ip", "-4", "route", "replace", "128.0.0.0/1", "via", ROUTER[4]],
        ["ip", "-6", "route", "replace", "default", "via", ROUTER[6], "dev", line.device, "metric", "1"],
        ["ip", "-6", "route", "replace", "2000::/3", "via", ROUTER[6]],
    )
    for each in more:
        line.client.run(each)
    try:
        yield
    finally:
        for each in more[1:]:
            line.client.run([*each[:3], "del", *each[4:]], check=False)


@pytest.mark.audit
def test_whatever_the_default_becomes_the_tunnel_is_the_way(line: Line) -> None:
    with Connection(line.client, words(line)), Leaks(line) as leaks:
        assert leaks.flows()
        with default_routes(line):
            assert leaks.tried()
            assert leaks.flows()
            assert reaches(line, LAN)
        assert leaks.seen() == []


@pytest.mark.audit
@pytest.mark.parametrize("outer", [4, 6])
def test_what_a_killed_client_had_inside_is_blocked_until_the_next_one_takes_over(line: Line, outer: int) -> None:
    before = traces(line.client)
    with Leaks(line) as leaks:
        with Connection(line.client, words(line, outer=outer)) as connection:
            assert leaks.flows()
            leaks.forget()
            kill(connection)
            assert leaks.tried()
        with default_routes(line):
            assert leaks.tried()
            assert refused(line, 4) and refused(line, 6)
            assert reaches(line, LAN)
        said = line.qosctl("status", check=False).stdout
        assert f"blocked: 0.0.0.0/0, ::/0 (of {TUNNEL} to " in said
        with Connection(line.client, words(line, outer=outer)) as connection:
            assert leaks.flows()
            assert connection.errors.count("still blocked") == 0
            assert leaks.seen() == []
        assert leaks.tried()
        assert leaks.seen() != []  # the user has ended it
    line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])
    assert traces(line.client) == before


@pytest.mark.audit
def test_every_end_that_the_user_did_not_want_leaves_it_blocked_and_says_so(line: Line, tmp_path: Path) -> None:
    """As when the server has forgotten the cookie: routes and DNS are as before, and nothing gets out."""
    before = traces(line.client)
    url = f"https://{line.topology.server4}:{line.server.port}"
    cookie = str(line.cookie_file(tmp_path))
    login = ["connect", url, "--cookie-file", cookie, "--servercert", line.server.pin, "-i", TUNNEL]
    with Leaks(line) as leaks, Connection(line.client, login) as connection:
        assert leaks.flows()
        leaks.forget()
        line.restart_server()
        connection.process.wait(20)
        assert BLOCKED in connection.errors
        assert leaks.tried()
        assert refused(line, 4) and refused(line, 6)
        assert leaks.seen() == []
        now = traces(line.client)
        assert {key: now[key] for key in now if key != "rules"} == {key: before[key] for key in before if key != "rules"}
        assert line.qosctl("unblock").stdout == f"let out again: 0.0.0.0/0, ::/0 (of {TUNNEL} to {url[8:]})\n"
    assert traces(line.client) == before
    assert line.qosctl("unblock").stdout == "nothing is blocked\n"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sign: sign.name)
def test_the_user_ends_it_and_nothing_is_left(line: Line, sign: signal.Signals) -> None:
    before = traces(line.client)
    with Connection(line.client, words(line)) as connection:
        connection.process.send_signal(sign)
        assert connection.process.wait(20) == 0
        assert connection.errors == ""
    assert traces(line.client) == before


def test_a_start_that_never_got_a_session_blocks_nothing(line: Line) -> None:
    with Ocserv(line.server_namespace, [line.topology.server4], port=4448) as other:
        address = words(line, server=other)
    before = traces(line.client)
    assert line.qosctl(*address, check=False).returncode != 0
    assert traces(line.client) == before
    assert line.qosctl("unblock").stdout == "nothing is blocked\n"


@pytest.mark.audit
def test_other_addresses_and_routes_come_without_a_gap(line: Line) -> None:
    """The script takes the old ones away before it sets the new: meanwhile the default of before must carry nothing."""
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=4449, more="dpd = 3\n") as server,
        Connection(line.client, words(line, server=server)) as connection,
        Leaks(line) as leaks,
    ):
        assert leaks.flows()
        configuration = server.folder / "ocserv.conf"
        configuration.write_text(configuration.read_text() + OTHER)
        server.restart()
        connection.wait_for("connected again")
        assert leaks.flows()
        assert "192.168.78" in line.client.run(["ip", "addr", "show", "dev", TUNNEL]).stdout
        assert leaks.seen() == []


@pytest.mark.audit
def test_ipv6_that_the_server_takes_away_is_blocked(line: Line) -> None:
    with (
        Ocserv(line.server_namespace, [line.topology.server4], port=4449, more="dpd = 3\n") as server,
        Connection(line.client, words(line, server=server)) as connection,
        Leaks(line) as leaks,
    ):
        assert leaks.flows()
        configuration = server.folder / "ocserv.conf"
        configuration.write_text(configuration.read_text().replace(f"ipv6-network = {server.network6}", ""))
        server.restart()
        connection.wait_for("connected again")
        assert "the tunnel carries no IPv6 any more" in connection.errors
        assert leaks.answered(4)
        assert leaks.tried()
        assert refused(line, 6)
        assert leaks.seen() == []


@pytest.mark.audit
def test_of_a_server_that_names_networks_these_are_held_and_nothing_else(line: Line) -> None:
    before = traces(line.client)
    with Ocserv(line.server_namespace, [line.topology.server4], port=4449, more=SPLIT) as server, Leaks(line) as leaks:
        with Connection(line.client, words(line, server=server)) as connection:
            assert leaks.flows()
            leaks.forget()
            with default_routes(line):
                assert leaks.flows()
            kill(connection)
            assert leaks.tried()
            assert refused(line, 4) and refused(line, 6)
            assert reaches(line, LAN) and reaches(line, line.topology.server4) and reaches(line, line.topology.server6)
            assert leaks.seen() == []
        said = line.qosctl("unblock").stdout
        assert said.startswith("let out again: 192.168.77.0/24, 203.0.113.0/24, ")
    clear(line)
    assert traces(line.client) == before


def test_what_the_server_excludes_goes_out(line: Line) -> None:
    more = f"dpd = 3\nno-route = {OUTSIDE[4]}/255.255.255.255\nno-route = {OUTSIDE[6]}/128\n"
    with Ocserv(line.server_namespace, [line.topology.server4], port=4449, more=more) as server, Leaks(line) as leaks:
        with Connection(line.client, words(line, server=server)) as connection:
            leaks.forget()
            assert leaks.flows()
            assert {frame.family for frame in leaks.seen()} == {4, 6}
            kill(connection)
            line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])
            assert leaks.flows()
            assert not reaches(line, "203.0.113.77")
        line.qosctl("unblock")
    clear(line)


def test_a_living_tunnel_keeps_what_it_holds_and_a_dead_one_beside_it_does_not(line: Line) -> None:
    with (
        Ocserv(line.server_namespace, [line.topology.server6], port=4449, more=SPLIT + OTHER) as server,
        Connection(line.client, words(line)) as full,
        Leaks(line) as leaks,
    ):
        assert leaks.flows()
        other = [word if word != TUNNEL else "vpn1" for word in words(line, server=server, outer=6)]
        with Connection(line.client, other) as split:
            assert leaks.flows()
            kill(split)
        assert leaks.tried()
        assert refused(line, 4) and refused(line, 6)  # what was in the one does not go into the other
        assert "let out again: 192.168.78.0/24, 203.0.113.0/24, " in line.qosctl("unblock").stdout
        assert line.qosctl("unblock").stdout == "nothing is blocked\n"
        assert full.process.poll() is None
        assert leaks.flows()
        assert leaks.seen() == []
    # The script takes one route to a server away, and has set one for each default there was.
    line.client.run(["ip", "-6", "route", "flush", line.topology.server6])


def test_the_name_need_not_resolve_while_it_is_held(line: Line, tmp_path: Path) -> None:
    """Its name server is outside, and so blocked; where the server was is remembered."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{line.topology.server4} vpn.test\n")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {OUTSIDE[4]}\noptions timeout:1 attempts:1\n")
    for ours, theirs in ((hosts, "/etc/hosts"), (resolv, "/etc/resolv.conf")):
        subprocess.run(["mount", "--bind", ours, theirs], check=True)
    try:
        by_name = [word.replace(line.topology.server4, "vpn.test") for word in words(line)]
        with Connection(line.client, by_name) as connection:
            kill(connection)
        hosts.write_text("127.0.0.1 localhost\n")
        with Connection(line.client, by_name):
            pass
        assert "vpn.test" in line.qosctl(*by_name, check=False).stderr
    finally:
        for theirs in ("/etc/hosts", "/etc/resolv.conf"):
            subprocess.run(["umount", theirs], check=True)
        line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])


def test_off_is_off(line: Line) -> None:
    before = traces(line.client)["rules"]
    with Connection(line.client, words(line, "--kill-switch", "off")):
        assert traces(line.client)["rules"] == before


def test_a_script_of_ones_own_chooses_the_routes_unless_told_otherwise(line: Line, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nexec {USUAL[0]}\n")
    script.chmod(0o755)
    before = traces(line.client)["rules"]
    with Connection(line.client, words(line, "--script", str(script))):
        assert traces(line.client)["rules"] == before
    with Connection(line.client, words(line, "--script", str(script), "--kill-switch", "on")):
        assert traces(line.client)["rules"] != before


ONLY_ADDRESSES = """
[ "$reason" = connect ] || exit 1
ip link set dev "$TUNDEV" up
ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
ip -6 addr add "$INTERNAL_IP6_NETMASK" dev "$TUNDEV"
exit 1
"""


@pytest.mark.audit
@pytest.mark.parametrize("does", ["exit 1\n", ONLY_ADDRESSES], ids=["nothing", "no_route"])
def test_a_script_that_fails_lets_nothing_out(line: Line, tmp_path: Path, does: str) -> None:
    """As where its `ip route` is refused: the routes that count are not the script's."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{does}")
    script.chmod(0o755)
    login = words(line, "--script", str(script), "--kill-switch", "on")
    with Connection(line.client, login) as connection, Leaks(line) as leaks:
        assert leaks.tried(100)
        assert leaks.seen() == []
        assert does != ONLY_ADDRESSES or leaks.flows()
        assert "connect: exit status 1" in connection.errors


def test_without_a_script_there_is_nothing_to_hold(line: Line) -> None:
    said = line.qosctl(*words(line, "--script", "none", "--kill-switch", "on"), check=False)
    assert said.returncode == USAGE
    assert said.stderr == (
        "qosctl: connect: --kill-switch on: without a script no routes lead into the tunnel (try: --script FILE)\n"
    )


def test_where_the_kernel_has_no_room_the_tunnel_goes_on_with_a_line(line: Line) -> None:
    rules = [str(FIRST_TABLE + 2 * slot) for slot in range(SLOTS)]
    for preference in rules:
        line.client.run(["ip", "rule", "add", "pref", preference, "lookup", "main", "protocol", "kernel"])
    try:
        with Connection(line.client, words(line)) as connection, Leaks(line) as leaks:
            assert leaks.flows()
            assert connection.errors == (
                f"qosctl: what belongs in {TUNNEL} may leave by another way: 16 tunnels hold what belongs in them already\n"
            )
    finally:
        for preference in rules:
            line.client.run(["ip", "rule", "del", "pref", preference])


@pytest.mark.parametrize("outer", [4, 6])
def test_its_own_packets_never_run_in_a_circle(line: Line, outer: int) -> None:
    """QC-11: the route to the server is gone, and the default leads into the tunnel."""
    server = line.topology.server_address(outer)
    with Connection(line.client, words(line, outer=outer)) as connection, Leaks(line) as leaks:
        assert leaks.flows()
        before = _sent_into(line)
        line.client.run(["ip", f"-{outer}", "route", "del", server])
        time.sleep(2)
        assert _sent_into(line) - before < 4000  # some 400 a second are offered; a circle makes thousands of each
        line.client.run(["ip", f"-{outer}", "route", "replace", server, "via", ROUTER[outer]])
        assert leaks.flows()
        assert connection.process.poll() is None
        assert leaks.seen() == []


def _sent_into(line: Line) -> int:
    (device,) = json.loads(line.client.run(["ip", "-j", "-s", "link", "show", "dev", TUNNEL]).stdout)
    return int(device["stats64"]["tx"]["packets"])


@pytest.mark.parametrize("setuid", [(), ("--setuid", "nobody")], ids=["root", "nobody"])
def test_whoever_the_client_is(line: Line, setuid: tuple[str, ...]) -> None:
    before = traces(line.client)
    with Leaks(line) as leaks:
        with Connection(line.client, words(line, *setuid)) as connection:
            assert leaks.flows()
            leaks.forget()
            kill(connection)
            assert leaks.tried()
            assert leaks.seen() == []
        assert line.qosctl("unblock").stdout.startswith("let out again: ")
    clear(line)
    assert traces(line.client) == before
