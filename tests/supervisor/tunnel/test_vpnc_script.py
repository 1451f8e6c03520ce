"""The script's environment, when it is called, and what is remembered of it: without a tunnel and without a server."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from qosctl.bpf.errors import QosctlError, RefusedError, UsageError
from qosctl.bpf.kernel import netns
from qosctl.dtls.anyconnect.network_fields import parse_network
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.vpn.host_routes import Network
from qosctl.dtls.vpn.http import Response
from qosctl.supervisor.tunnel import vpnc_script as script_module
from qosctl.supervisor.tunnel.undo_journal import Leftover, UndoJournal
from qosctl.supervisor.tunnel.vpnc_environment import document, environment, from_document
from qosctl.supervisor.tunnel.vpnc_script import NONE, Script, choose, undo_for_orphans

NETWORK = Network(
    include=(ip_network("10.20.0.0/16"), ip_network("192.0.2.1/32"), ip_network("fd20::/48")),
    exclude=(ip_network("10.20.5.0/24"),),
    splits=frozenset({4, 6}),
    dns=(ip_address("10.0.0.53"),),
    domain="example.test",
    split_dns=("a.test", "b.test"),
    idle_s=60,
    banner="Hello",
    discarded=3,
)
GIVEN = HostConfig(
    "vpn0", ip_address("192.0.2.1"), 1400, (ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")), NETWORK
)
OTHER = HostConfig("vpn0", ip_address("192.0.2.1"), 1400, (ip_interface("192.168.77.6/24"),), NETWORK)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where things are remembered, in place of /run/qosctl."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture(name="log")
def log_fixture(tmp_path: Path) -> Path:
    """What a script wrote that notes each call: its reason, the device, the address."""
    path = tmp_path / "script"
    path.write_text(f'#!/bin/sh\necho "$reason $TUNDEV $INTERNAL_IP4_ADDRESS $VPNPID" >>{tmp_path}/log\n')
    path.chmod(0o755)
    return tmp_path / "log"


@pytest.fixture(name="warnings")
def warnings_fixture() -> Iterator[list[str]]:
    yield []


def test_what_is_set_and_what_is_not() -> None:
    base = {
        "PATH": "/bin",
        "INTERNAL_IP4_DNS": "6.6.6.6",
        "CISCO_SPLIT_INC_7_ADDR": "0.0.0.0",
        "X-CSTP-DNS": "x",
        "reason": "y",
    }
    assert environment("connect", GIVEN, 42, base) == {
        "PATH": "/bin",
        "reason": "connect",
        "VPNGATEWAY": "192.0.2.1",
        "VPNPID": "42",
        "LOG_LEVEL": "1",
        "TUNDEV": "vpn0",
        "IDLE_TIMEOUT": "60",
        "INTERNAL_IP4_ADDRESS": "192.168.77.5",
        "INTERNAL_IP4_NETMASK": "255.255.255.0",
        "INTERNAL_IP4_NETMASKLEN": "24",
        "INTERNAL_IP4_NETADDR": "192.168.77.0",
        "INTERNAL_IP6_ADDRESS": "fd77::5",
        "INTERNAL_IP6_NETMASK": "fd77::5/128",
        "INTERNAL_IP4_MTU": "1400",
        "INTERNAL_IP4_DNS": "10.0.0.53",
        "CISCO_DEF_DOMAIN": "example.test",
        "CISCO_SPLIT_DNS": "a.test,b.test",
        "CISCO_BANNER": "Hello",
        "CISCO_SPLIT_INC": "1",  # and not the server's own address
        "CISCO_SPLIT_INC_0_ADDR": "10.20.0.0",
        "CISCO_SPLIT_INC_0_MASK": "255.255.0.0",
        "CISCO_SPLIT_INC_0_MASKLEN": "16",
        "CISCO_SPLIT_EXC": "1",
        "CISCO_SPLIT_EXC_0_ADDR": "10.20.5.0",
        "CISCO_SPLIT_EXC_0_MASK": "255.255.255.0",
        "CISCO_SPLIT_EXC_0_MASKLEN": "24",
        "CISCO_IPV6_SPLIT_INC": "1",
        "CISCO_IPV6_SPLIT_INC_0_ADDR": "fd20::",
        "CISCO_IPV6_SPLIT_INC_0_MASKLEN": "48",
    }


def test_networks_that_were_named_and_are_none_do_not_become_all() -> None:
    network = Network(splits=frozenset({4}))
    made = environment("connect", HostConfig("vpn0", GIVEN.gateway, 1400, GIVEN.addresses, network), 1, {})
    assert made["CISCO_SPLIT_INC"] == "0"
    assert "CISCO_IPV6_SPLIT_INC" not in made


_HEADERS = [
    "x-cstp-split-include", "x-cstp-split-include-ip6", "x-cstp-split-exclude", "x-cstp-dns", "x-cstp-nbns",
    "x-cstp-default-domain", "x-cstp-split-dns", "x-cstp-idle-timeout", "x-cstp-banner",
]  # fmt: skip
_SAFE = re.compile(r"[0-9A-Za-z._:/ ,-]*\Z")


@drawn(st.lists(st.tuples(st.sampled_from(_HEADERS), st.text(max_size=40) | st.ip_addresses().map(str)), max_size=20))
def test_whatever_a_server_says_the_values_mean_nothing_to_a_shell(fields: list[tuple[str, str]]) -> None:
    network = parse_network(Response(200, "CONNECTED", tuple(fields), b""))
    made = environment("connect", HostConfig("vpn0", GIVEN.gateway, 1400, GIVEN.addresses, network), 1, {})
    shown = made.pop("CISCO_BANNER", "")
    assert all(_SAFE.match(value) and not value.startswith("-") for value in made.values())
    assert "\\" not in shown
    assert shown.isprintable()


def test_a_document_says_it_all() -> None:
    assert from_document(json.loads(json.dumps(document(GIVEN)))) == GIVEN


BAD = {
    "device with a slash": {"tunnel": "../../x"},
    "device with a blank": {"tunnel": "a b"},
    "device that is an option": {"tunnel": "-x"},
    "device that is a folder": {"tunnel": ".."},
    "device that is a command": {"tunnel": ";>owned"},
    "device that is not ASCII": {"tunnel": "tün0"},
    "no gateway": {"gateway": "$(reboot)"},
    "address with a zone": {"addresses": ["fd77::1%$(reboot)/64"]},
    "addresses as text": {"addresses": "10.0.0.1"},
    "numbers as text": {"mtu": "1400"},
    "numbers beyond all bounds": {"idle_s": 1 << 70},
    "networks that are none": {"include": [7]},
}


@pytest.mark.parametrize("change", BAD.values(), ids=list(BAD))
def test_a_document_that_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_document(document(GIVEN) | change)


def test_a_document_cannot_say_what_a_server_cannot() -> None:
    read = from_document(
        document(GIVEN) | {"include": ["127.0.0.0/8"], "dns": ["$(reboot)"], "domain": "a;b", "banner": "\x1b"}
    )
    assert (read.network.include, read.network.dns, read.network.domain, read.network.banner) == ((), (), "", "")


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@drawn(st.dictionaries(st.sampled_from(sorted(document(GIVEN))), _JSON))
def test_documents_are_read_totally(change: dict[str, object]) -> None:
    with suppress(ValueError):
        from_document(document(GIVEN) | change)


def test_the_order_of_calls(folder: Path, log: Path, warnings: list[str]) -> None:
    script = Script(str(log.with_name("script")), None, 42, warnings.append)
    script.prepare(HostConfig("", GIVEN.gateway, 1400, GIVEN.addresses, NETWORK))
    for given in (GIVEN, GIVEN, OTHER):
        script.apply(given)
        script.attempt()
    script.attempt()  # too soon after the last
    (remembered,) = folder.iterdir()
    assert remembered.name == f"{netns.cookie()}-vpn0"
    assert remembered.stat().st_mode & 0o777 == 0o600
    script.close(asked=True)
    script.close(asked=True)
    assert log.read_text().splitlines() == [
        "pre-init  192.168.77.5 42",
        "connect vpn0 192.168.77.5 42",
        "attempt-reconnect vpn0 192.168.77.5 42",
        "reconnect vpn0 192.168.77.5 42",
        "disconnect vpn0 192.168.77.5 42",
        "connect vpn0 192.168.77.6 42",
        "disconnect vpn0 192.168.77.6 42",
    ]
    assert list(folder.iterdir()) == []
    assert warnings == ["3 of the server's routes are left out: none that a VPN may set"]


@pytest.mark.audit
def test_a_script_that_hangs_lets_no_calls_pile_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """Finding 8: a server whose sessions flap would have had one more call wait for each."""
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\nsleep 1000\n")
    path.chmod(0o700)
    monkeypatch.setattr("qosctl.supervisor.tunnel.vpnc_script.PATIENCE_S", 0.2)
    script = Script(str(path), None, 42, warnings.append)
    for _ in range(200):
        script.apply(GIVEN)
        script.attempt()
    assert script._open <= 12
    script.close(asked=True)
    assert list(folder.iterdir()) == []


def test_a_script_that_hangs_is_ended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\nsleep 1000\n")
    path.chmod(0o755)
    monkeypatch.setattr(script_module, "PATIENCE_S", 0.2)
    script = Script(str(path), None, 42, warnings.append)
    script.prepare(GIVEN)
    assert not script.settle(0.01)
    assert script.settle(10)
    assert warnings == [f"{path}: pre-init: not done after 0 s"]
    assert not folder.exists()


def _left(folder: Path, log: Path) -> Path:
    """Leave what a client that was killed leaves; the lock goes with the descriptor."""
    journal = UndoJournal.claim("vpn0")
    journal.write(Leftover(42, str(log.with_name("script")), GIVEN))
    journal.leave()
    (path,) = folder.iterdir()
    return path


def test_the_dead_are_undone_once(folder: Path, log: Path, warnings: list[str]) -> None:
    _left(folder, log)
    for _ in range(2):
        undo_for_orphans(warnings.append)
    assert log.read_text() == "disconnect vpn0 192.168.77.5 42\n"
    assert warnings == ["undoing the routes and DNS of vpn0, whose client was killed"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("spoil", ["readable", "another's", "linked", "garbage", "no given", "elsewhere", "folder"])
def test_what_is_not_surely_ours_is_not_run(spoil: str, folder: Path, log: Path, warnings: list[str]) -> None:
    path = _left(folder, log)
    match spoil:
        case "readable":
            path.chmod(0o644)
        case "another's":
            os.chown(path, 65534, 65534)
        case "linked":
            path.rename(folder / "target")
            path.symlink_to(folder / "target")
        case "garbage":
            path.write_bytes(b"\xff\x00{")
        case "no given":
            path.write_text(json.dumps({"pid": 42, "script": str(log.with_name("script")), "given": {"tunnel": 1}}))
        case "elsewhere":
            path.rename(folder / "1234567-vpn0")  # another namespace's
        case "folder":
            path.unlink()
            path.mkdir()
    undo_for_orphans(warnings.append)
    assert not log.exists()
    assert warnings == []


def test_a_device_has_one_client(folder: Path) -> None:
    first = UndoJournal.claim("vpn0")
    with pytest.raises(RefusedError, match=rf"vpn0: qosctl connect runs on it already, as process {os.getpid()}"):
        UndoJournal.claim("vpn0")
    UndoJournal.claim("vpn1").forget()
    first.forget()
    UndoJournal.claim("vpn0").forget()
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_can_write_to_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        UndoJournal.claim("vpn0")


@pytest.mark.audit
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_script_that_others_can_change_is_not_run(mode: int, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.touch()
    script.chmod(mode)
    with pytest.raises(RefusedError, match="others than its owner can change it"):
        choose(str(script))


STRANGER = 65534


def _strangers(log: Path, how: str) -> str:
    """Put a stranger's script in the place of ours, or ours where he could; returns where it is."""
    script = log.with_name("script")
    shared = log.with_name("shared")
    match how:
        case "another's file":
            os.chown(script, STRANGER, STRANGER)
        case "a sticky folder":  # as /tmp, from which ours has gone
            shared.mkdir()
            shared.chmod(0o1777)
            script = script.rename(shared / "script")
            os.chown(script, STRANGER, STRANGER)
        case "a folder that others write to":
            shared.mkdir()
            shared.chmod(0o777)
            script = script.rename(shared / "script")
        case "another's folder":
            shared.mkdir()
            os.chown(shared, STRANGER, STRANGER)
            script = script.rename(shared / "script")
        case "a link to another's":
            os.chown(script, STRANGER, STRANGER)
            (log.with_name("link")).symlink_to(script)
            script = log.with_name("link")
    return str(script)


HOWS = ["another's file", "a sticky folder", "a folder that others write to", "another's folder", "a link to another's"]


@pytest.mark.audit
@pytest.mark.parametrize("how", HOWS)
def test_a_strangers_script_is_neither_chosen_nor_run_for_the_living_or_the_dead(
    how: str, folder: Path, log: Path, warnings: list[str]
) -> None:
    """Finding 1: where it lay may be somebody else's by the time it is run again."""
    path = _strangers(log, how)
    with pytest.raises(RefusedError):
        choose(path)
    script = Script(path, None, 42, warnings.append)
    script.apply(GIVEN)
    assert script.settle(5)
    assert not log.exists()
    assert "not run" in warnings[-1]
    script.close(asked=True)
    journal = UndoJournal.claim("vpn1")
    journal.write(Leftover(42, path, GIVEN))
    journal.leave()
    undo_for_orphans(warnings.append)
    assert not log.exists()
    assert "not run" in warnings[-1]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("caller", ["65534", "", "0", "1000", "nobody"])
def test_who_has_called_sudo_is_trusted_with_his_own_script(
    caller: str, folder: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del folder
    path = _strangers(log, "another's folder")
    monkeypatch.setenv("SUDO_UID", caller)
    if caller == str(STRANGER):
        assert choose(path) == path
    else:
        with pytest.raises(RefusedError):
            choose(path)


def test_which_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, runs = tmp_path / "plain", tmp_path / "runs"
    plain.touch(mode=0o600)
    runs.touch(mode=0o755)
    assert (choose(NONE), choose(str(runs))) == (NONE, str(runs))
    refused: list[type[QosctlError]] = [UsageError, RefusedError, RefusedError, RefusedError]
    for wanted, error in zip(["", str(plain), str(tmp_path), str(tmp_path / "nowhere")], refused, strict=True):
        with pytest.raises(error):
            choose(wanted)
    monkeypatch.setattr(script_module, "USUAL", (tmp_path / "nowhere", runs))
    assert choose(None) == str(runs)
    monkeypatch.setattr(script_module, "USUAL", ())
    assert choose(None) == NONE
