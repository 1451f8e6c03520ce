"""What bad input gets: one line on stderr that says what is wrong, the exit code, and nothing left behind.

A row is a command line with facts of the line filled in, what is fed to it, and what it says.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Connection, Ocserv
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import Line

USAGE, REFUSED, NOT_ATTACHED, NO_PERMISSION, LOGIN_REFUSED = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Refusal:
    """A command line that cannot succeed, `stdin` for it, its exit code and its one line, without the prefix."""

    command: str
    code: int
    line: str
    stdin: str = ""


LOGIN = "-u alice --password-file {password_file} --servercert {pin}"
FED = "-u alice --passwd-on-stdin"
COMPARE = ", after comparing it with what the server's operator says"
NEEDS = "needs root with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON"
RUN_AS_ROOT = "(try: run it as root)"

BEFORE_ATTACH = {
    "no such interface": Refusal("attach nope0", REFUSED, "nope0: no such device (try: ip link)"),
    "one of two does not exist": Refusal("attach {device} nope0", REFUSED, "nope0: no such device (try: ip link)"),
    "a name too long": Refusal("attach an-interface-name-too-long", REFUSED,
                               "an-interface-name-too-long: no such device (try: ip link)"),
    "detach of nothing": Refusal("detach {device}", NOT_ATTACHED,
                                 "{device}: nothing of ours is attached (try: qosctl status)"),
    "detach of all of nothing": Refusal("detach --all", NOT_ATTACHED,
                                        "nothing is attached in this network namespace"),
    "detach of no such interface": Refusal("detach nope0", REFUSED, "nope0: no such device (try: ip link)"),
    "detach of neither": Refusal("detach", USAGE,
                                 "detach: name the devices, or say --all (try: qosctl detach eth0)"),
    "detach of both": Refusal("detach --all {device}", USAGE,
                              "detach: name the devices, or say --all (try: qosctl detach eth0)"),
    "passtos on before attach": Refusal("passtos on", NOT_ATTACHED,
                                        "nothing is attached in this network namespace (try: qosctl attach IFACE)"),
    "passtos off before attach": Refusal("passtos off", NOT_ATTACHED,
                                         "nothing is attached in this network namespace (try: qosctl attach IFACE)"),
    "passtos asked before attach": Refusal("passtos", NOT_ATTACHED,
                                           "nothing is attached in this network namespace (try: qosctl attach IFACE)"),
}  # fmt: skip

CONNECT = {
    "wrong password": Refusal(
        "connect {url} " + FED + " --servercert {pin}", LOGIN_REFUSED, "alice: wrong password", stdin="wrong\n"),
    "unknown user": Refusal(
        "connect {url} -u nobody --passwd-on-stdin --servercert {pin}", LOGIN_REFUSED, "nobody: wrong password",
        stdin="wrong\n"),
    "no password fed": Refusal(
        "connect {url} " + FED + " --servercert {pin}", USAGE, "connect: standard input is empty"),
    "no terminal to ask on": Refusal(
        "connect {url} -u alice --servercert {pin}", USAGE,
        "connect: no terminal to ask for the password on (try: --passwd-on-stdin or --password-file FILE)"),
    "no user": Refusal(
        "connect {url} --servercert {pin}", USAGE, "connect: who logs in? (try: -u USER, or --cookie-on-stdin)"),
    "certificate the system does not know": Refusal(
        "connect {url} " + FED, REFUSED,
        "{host}: certificate not trusted: self-signed certificate (try: --servercert {pin}" + COMPARE + ")",
        stdin="never asked for\n"),
    "certificate of another authority": Refusal(
        "connect {url} " + FED + " --ca {other_ca}", REFUSED,
        "{host}: certificate not trusted: self-signed certificate (try: --servercert {pin}" + COMPARE + ")",
        stdin="never asked for\n"),
    "pin that does not match": Refusal(
        "connect {url} " + FED + " --servercert {other_pin}", REFUSED,
        "{host}: the server's key is not the pinned one (try: --servercert {pin}" + COMPARE + ")",
        stdin="never asked for\n"),
    "pin that is none": Refusal(
        "connect {url} " + FED + " --servercert pin-sha256:short", USAGE,
        "connect: 'pin-sha256:short' is not a pin: use pin-sha256: and 44 characters of base64", stdin="x\n"),
    "nobody listens": Refusal(
        "connect https://{address}:4440 " + LOGIN, NOT_ATTACHED,
        "{address}:4440: connection refused (try: another port, https://{address}:4443, or ask whether the server runs)"),
    "device name taken": Refusal(
        "connect {url} " + LOGIN + " -i {device}", REFUSED,
        "{device}: name is taken (try: another name, or: ip link show {device})"),
    "device name that is none": Refusal(
        "connect {url} " + LOGIN + " -i a-device-name-too-long", USAGE,
        "connect: 'a-device-name-too-long' is not a device name (try: 1 to 15 letters and digits, as in vpn0)"),
    "password file others can read": Refusal(
        "connect {url} -u alice --password-file {readable_file} --servercert {pin}", REFUSED,
        "{readable_file}: others than its owner can read or change it (try: chmod 600 {readable_file})"),
    "no password file": Refusal(
        "connect {url} -u alice --password-file /nowhere/at/all --servercert {pin}", REFUSED,
        "/nowhere/at/all: No such file or directory (try: ls -l /nowhere/at/all)"),
    "not https": Refusal(
        "connect http://{host} " + LOGIN, USAGE,
        "connect: http://{host}: only https is spoken here (try: https://vpn.example or https://vpn.example:4443)"),
    "password in the URL": Refusal(
        "connect https://alice:secret@{host} " + LOGIN, USAGE,
        "connect: a URL is no place for a user name or a password"
        " (try: https://vpn.example or https://vpn.example:4443)"),
    "cookie that cannot be one": Refusal(
        "connect {url} --cookie-on-stdin --servercert {pin}", USAGE,
        "connect: the cookie holds characters that no cookie has (try: openconnect --authenticate)", stdin="a b\n"),
    "cookie the server does not know": Refusal(
        "connect {url} --cookie-on-stdin --servercert {pin}", REFUSED,
        "{host}: the server refuses the tunnel: 503 Service Unavailable"
        " (try: log in again; if that does not help, the server's operator)", stdin="QUJDRA==\n"),
}  # fmt: skip

NOT_ROOT = {
    "attach": Refusal("attach {device}", NO_PERMISSION, f"this {NEEDS} {RUN_AS_ROOT}"),
    "detach": Refusal("detach {device}", NO_PERMISSION, f"detach {NEEDS} {RUN_AS_ROOT}"),
    "passtos": Refusal("passtos on", NO_PERMISSION, f"this {NEEDS} {RUN_AS_ROOT}"),
    "status": Refusal("status", NO_PERMISSION, f"status {NEEDS} {RUN_AS_ROOT}"),
    "flows": Refusal("flows", NO_PERMISSION, f"this {NEEDS} {RUN_AS_ROOT}"),
    "connect": Refusal("connect {url} " + FED + " --servercert {pin}", NO_PERMISSION,
                       f"tun: making a tunnel device needs CAP_NET_ADMIN {RUN_AS_ROOT}", stdin="{password}\n"),
}  # fmt: skip

# Nobody, who may still read: the tree that is tested can lie in a folder that only its owner may enter.
AS_NOBODY = shlex.split(
    "setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
)


@pytest.fixture(scope="module")
def other(line: Line) -> Iterator[Ocserv]:
    """Another server, without DTLS, with a certificate for its IPv4 address alone."""
    with Ocserv(line.server_namespace, [line.topology.server4], port=4444, dtls=False) as made:
        yield made


@pytest.fixture
def facts(line: Line, other: Ocserv, tmp_path: Path) -> dict[str, str]:
    readable = tmp_path / "password"
    readable.write_text(line.server.users["alice"])
    readable.chmod(0o644)
    address = line.topology.server4
    return {
        "device": line.device,
        "address": address,
        "host": f"{address}:{line.server.port}",
        "url": f"https://{address}:{line.server.port}",
        "pin": line.server.pin,
        "password": line.server.users["alice"],
        "password_file": str(line.server.password_file("alice")),
        "readable_file": str(readable),
        "other_host": f"{address}:{other.port}",
        "other_url": f"https://{address}:{other.port}",
        "other_pin": other.pin,
        "other_ca": str(other.ca),
    }


def _assert_refused(line: Line, row: Refusal, facts: dict[str, str], wrapper: tuple[str, ...] = ()) -> None:
    argv = [*wrapper, str(COMMAND), *shlex.split(row.command.format(**facts))]
    said = line.client.run(argv, check=False, stdin=row.stdin.format(**facts))
    assert (said.stderr, said.stdout, said.returncode) == (f"qosctl: {row.line.format(**facts)}\n", "", row.code)


@pytest.mark.parametrize("name", BEFORE_ATTACH)
def test_refused_before_attach(name: str, line: Line, facts: dict[str, str]) -> None:
    _assert_refused(line, BEFORE_ATTACH[name], facts)


@pytest.mark.parametrize("name", CONNECT)
def test_refused_by_connect(name: str, line: Line, facts: dict[str, str]) -> None:
    _assert_refused(line, CONNECT[name], facts)


def test_refused_to_whoever_is_not_root(attached: Line, facts: dict[str, str]) -> None:
    for row in NOT_ROOT.values():
        _assert_refused(attached, row, facts, tuple(AS_NOBODY))
    assert attached.qosctl("passtos").stdout == "off\n"


def test_attach_of_several_is_all_or_nothing(attached: Line) -> None:
    assert attached.qosctl("attach", "lo", "nope0", check=False).returncode == REFUSED
    assert [device["device"] for device in attached.qosctl.read("status")["devices"]] == [attached.device]


def test_attach_twice_is_a_notice(attached: Line) -> None:
    said = attached.qosctl("attach", attached.device)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith(f"{attached.device}: attached already, up to date (")


def test_detach_twice_is_refused_the_second_time(line: Line, facts: dict[str, str]) -> None:
    line.qosctl("attach", line.device)
    line.qosctl("detach", line.device)
    _assert_refused(line, BEFORE_ATTACH["detach of nothing"], facts)


def test_a_certificate_for_another_address_is_refused(line: Line, other: Ocserv, facts: dict[str, str]) -> None:
    url = f"https://[{line.topology.server6}]:{other.port}"
    said = line.qosctl("connect", url, "-u", "alice", "--passwd-on-stdin", "--ca", str(other.ca), check=False, stdin="x\n")
    assert said.returncode == REFUSED
    assert said.stderr.startswith(f"qosctl: [{line.topology.server6}]:{other.port}: certificate not trusted: ")
    assert "mismatch" in said.stderr
    del facts


def test_the_right_authority_is_believed(line: Line, facts: dict[str, str]) -> None:
    words = "connect {url} --script none -u alice --password-file {password_file} --ca".format(**facts).split()
    with Connection(line.client, [*words, str(line.server.ca)]) as connection:
        assert connection.output.startswith("connected tun0: ")


def test_a_second_tunnel_of_the_same_name_is_refused(line: Line, facts: dict[str, str]) -> None:
    with line.connected() as connection:
        facts["pid"] = str(connection.process.pid)
        row = Refusal("connect {url} " + LOGIN + " -i vpn0", REFUSED,
                      "vpn0: qosctl connect runs on it already, as process {pid} "
                      "(try: another name with -i, or: kill {pid})")  # fmt: skip
        _assert_refused(line, row, facts)
        assert len(line.qosctl.read("flows")["flows"]) == 1


def test_usage_errors_have_one_line(line: Line) -> None:
    for words in ((), ("bogus",), ("attach",), ("passtos", "maybe"), ("attach", "eth0", "--hook", "none"), ("connect",)):
        said = line.qosctl(*words, check=False)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (USAGE, "", 1)
        assert said.stderr.startswith("qosctl")
        assert "(try: " in said.stderr


@pytest.mark.parametrize("noun", ["passtos", "policy"])
def test_with_json_the_error_is_json_too(line: Line, noun: str) -> None:
    said = line.qosctl(noun, "--json", check=False)
    assert json.loads(said.stdout) == {
        "schema_version": 1,
        "error": {
            "message": "nothing is attached in this network namespace",
            "hint": "qosctl attach IFACE",
            "exit_code": NOT_ATTACHED,
        },
    }
    assert said.stderr == "qosctl: nothing is attached in this network namespace (try: qosctl attach IFACE)\n"
    assert said.returncode == NOT_ATTACHED
