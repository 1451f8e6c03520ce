"""What the kernel is to hold for a session, and whose slot is whose: no tunnel, no packets."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.outer_sockets import MARK
from qosctl.dtls.vpn.host_routes import Network
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.blocked import blocked, unblock
from qosctl.supervisor.kill_switch.held import Owner, Slot, ownerless
from qosctl.supervisor.kill_switch.plan import (
    FIRST_TABLE,
    MAIN,
    PREFERENCES,
    SLOTS,
    Kind,
    Plan,
    Route,
    Rule,
    inside,
    plan,
    slot_of,
)

from tests.lab import Namespace

GATEWAY = ip_address("192.0.2.1")
V4, V6 = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def given(*addresses: object, gateway: str = "192.0.2.1", **network: object) -> HostConfig:
    return HostConfig("vpn0", ip_address(gateway), 1400, tuple(addresses), Network(**network))  # type: ignore[arg-type]


def planned(what: HostConfig, slot: int = 0) -> Plan:
    held = inside(what)
    return plan(slot, held, held, what.gateway)


def networks(made: Plan, kind: Kind) -> set[str]:
    return {str(route.net) for route in made.routes if route.kind is kind}


def test_a_server_that_names_nothing_means_all_of_the_versions_it_gives_addresses_of() -> None:
    made = planned(given(V4, V6))
    assert networks(made, Kind.BLOCKED) == networks(made, Kind.TUNNEL) == {"0.0.0.0/0", "::/0"}
    assert networks(made, Kind.OUTSIDE) == set()
    assert {rule.version for rule in planned(given(V4)).rules} == {4}


def test_a_server_that_names_networks_means_these_and_its_own() -> None:
    named = (ip_network("10.20.0.0/16"), ip_network("fd20::/48"))
    made = planned(given(V4, V6, include=named, exclude=(ip_network("10.20.5.0/24"),), splits=frozenset({4, 6})))
    inside_networks = {"10.20.0.0/16", "192.168.77.0/24", "fd20::/48", "fd77::5/128"}
    assert networks(made, Kind.BLOCKED) == inside_networks
    assert networks(made, Kind.TUNNEL) == inside_networks | {"0.0.0.0/0", "::/0"}  # for answers from the tunnel's address
    assert networks(made, Kind.OUTSIDE) == {"10.20.5.0/24"}


def test_of_one_version_it_may_name_networks_and_of_the_other_mean_all() -> None:
    made = planned(given(V4, V6, include=(ip_network("10.20.0.0/16"),), splits=frozenset({4})))
    assert networks(made, Kind.BLOCKED) == {"10.20.0.0/16", "192.168.77.0/24", "::/0"}


@pytest.mark.parametrize(
    ("nets", "believed"),
    [
        (["0.0.0.0/0"], 8),
        (["0.0.0.0/1", "128.0.0.0/1"], 8),
        (["10.0.0.0/8", "10.20.0.0/16"], 9),
        (["10.20.0.0/16"], 17),
        (["10.20.1.1/32"], 25),  # the tunnel's own network is a /24
    ],
)
def test_of_main_only_what_is_more_specific_than_what_is_inside_is_believed(nets: list[str], believed: int) -> None:
    made = planned(given(V4, include=tuple(map(ip_network, nets)), splits=frozenset({4})))
    (rule,) = [rule for rule in made.rules if rule.table == MAIN and (rule.to, rule.source, rule.mark) == (None, None, 0)]
    assert rule.shorter_than == believed


@pytest.mark.audit
@pytest.mark.parametrize(
    ("nets", "own", "asked"),
    [
        (["10.0.0.0/8", "172.16.5.0/24"], "172.16.0.0/12", "172.16.5.1"),
        (["10.20.1.1/32"], "10.20.1.0/25", "10.20.1.1"),  # the tunnel's own network is shorter
        (["0.0.0.0/0", "10.20.0.0/16"], "10.0.0.0/8", "10.20.0.1"),
        (["172.16.0.0/12", "10.0.0.0/8", "172.16.5.0/24"], "172.16.0.0/16", "172.16.5.1"),  # within each other
        (["2001:db8::/32", "2001:db8:0:5::/64"], "2001:db8::/48", "2001:db8:0:5::1"),
    ],
)
def test_a_route_as_short_as_a_network_of_the_servers_is_not_believed_for_that(
    nets: list[str], own: str, asked: str
) -> None:
    """Finding 2: the shortest network that a server names says nothing of what counts for the longer ones."""
    named = tuple(map(ip_network, nets))
    version = named[0].version
    with Namespace("guarded") as namespace, namespace.entered():
        namespace.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"])
        namespace.run(["ip", "link", "set", "up0", "up"])
        namespace.run(["ip", "link", "set", "up1", "up"])
        namespace.run(["ip", f"-{version}", "route", "add", own, "dev", "up0"])
        longer = f"{asked}/{ip_network(asked).prefixlen}"
        found = ["ip", f"-{version}", "route", "get", asked]
        assert "up0" in namespace.run(found).stdout
        held = planned(given(V4, V6, include=named, splits=frozenset({version})))
        held = Plan(held.rules, frozenset(route for route in held.routes if route.kind is not Kind.TUNNEL))
        kernel.enforce(0, held, 0)
        kernel.enforce(0, held, 0)
        assert "up0" not in namespace.run(found, check=False).stdout
        if longer not in nets:
            namespace.run(["ip", f"-{version}", "route", "add", longer, "dev", "up0"])
            assert "up0" in namespace.run(found).stdout  # more specific than what the server named
        kernel.lift(0)
        assert kernel.held() == {}
        assert "up0" in namespace.run(found).stdout


@pytest.mark.audit
def test_ipv6_is_held_where_there_is_no_proc() -> None:
    """Finding 2: what is not to be seen was taken for what is not there, and left in clear."""
    program = (
        "from qosctl.supervisor.kill_switch import kernel\n"
        "from tests.supervisor.kill_switch.test_kill_switch import *\n"
        "kernel.enforce(0, planned(given(V4, V6)), 0)\n"
        "print(*kernel.held()[0])\n"
    )
    words = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    done = subprocess.run([*words, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0.0.0.0/0 ::/0\n"


def test_rules_of_others_are_left_alone_whatever_their_preference() -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        namespace.run(["ip", "rule", "add", "pref", str(PREFERENCES.start), "lookup", "100"])
        kernel.enforce(0, planned(given()), 0)
        kernel.lift(0)
        assert f"{PREFERENCES.start}:" in namespace.run(["ip", "rule"]).stdout
        assert kernel.held() == {}


def test_what_names_networks_comes_before_what_takes_everything_whatever_the_slots() -> None:
    split = planned(given(V4, include=(ip_network("10.20.0.0/16"),), splits=frozenset({4})), SLOTS - 1)
    full = planned(given(V4), 0)
    last = max(rule.preference for rule in split.rules if rule.to is None and rule.source is None)
    assert last < min(rule.preference for rule in full.rules if rule.to is None and not rule.mark)
    own = min(rule.preference for rule in split.rules if rule.source is not None)
    assert max(rule.preference for rule in full.rules if rule.source is None) < own


def test_slots_have_numbers_of_their_own_within_what_is_documented() -> None:
    taken: set[int] = set()
    for slot in range(SLOTS):
        for each in (given(V4, V6), given(V4, splits=frozenset({4})), given(V4, V6, gateway="2001:db8::1")):
            mine = {rule.preference for rule in planned(each, slot).rules}
            assert all(preference in PREFERENCES and slot_of(preference) == slot for preference in mine)
            assert not mine & taken
        taken |= mine
    assert (FIRST_TABLE, PREFERENCES.start, PREFERENCES[-1]) == (24740, 24420, 24867)


def to_server(made: Plan) -> list[tuple[int | None, int, int, bool]]:
    local = {rule for rule in made.rules if not rule.came_by and rule.source is None}
    chosen = {rule for rule in local if rule.to is not None or rule.mark}
    rules = sorted((rule for rule in chosen if rule.version == 6), key=lambda rule: rule.preference)
    assert {str(rule.to) for rule in rules if rule.to is not None} == {"2001:db8::1/128"}
    assert max(rule.preference for rule in rules) < min(rule.preference for rule in local - chosen)
    return [(rule.table, rule.device_group, rule.mark, rule.to is not None) for rule in rules]


def test_only_the_tunnels_own_packets_reach_the_server_by_main_and_never_through_the_tunnel() -> None:
    table = FIRST_TABLE + 3
    assert to_server(planned(given(V4, V6, gateway="2001:db8::1"), 3)) == [
        (MAIN, table, MARK, False),  # also to where the server is found the next time
        (None, 0, MARK, True),
        (table, 0, 0, True),
    ]


def test_where_unmarked_packets_must_have_the_same_way_all_to_the_server_go_out() -> None:
    what = given(V4, V6, gateway="2001:db8::1")
    held = inside(what)
    made = plan(3, held, held, what.gateway, marked=False)
    assert to_server(made) == [(MAIN, FIRST_TABLE + 3, 0, True), (None, 0, 0, True)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))


def test_what_was_planned_is_what_is_there_and_a_change_leaves_only_the_new() -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        first = planned(given(V4, V6))
        first = Plan(first.rules, frozenset(route for route in first.routes if route.kind is not Kind.TUNNEL))
        kernel.enforce(0, first, 0)
        kernel.enforce(0, first, 0)
        assert kernel.held() == {0: [EVERYTHING[4], EVERYTHING[6]]}
        second = planned(given(V4, include=(ip_network("10.20.0.0/16"),), splits=frozenset({4}), gateway="192.0.2.9"))
        second = Plan(second.rules, frozenset(route for route in second.routes if route.kind is not Kind.TUNNEL))
        kernel.enforce(0, second, 0)
        assert kernel.held() == {0: [ip_network("10.20.0.0/16"), ip_network("192.168.77.0/24")]}
        rules = namespace.run(["ip", "rule"]).stdout
        assert "192.0.2.9" in rules and "192.0.2.1 " not in rules
        kernel.lift(0)
        assert kernel.held() == {}
        assert namespace.run(["ip", "route", "show", "table", str(FIRST_TABLE)], check=False).stdout == ""


def test_others_rules_and_tables_are_left_alone() -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        namespace.run(["ip", "rule", "add", "pref", "24000", "lookup", "100"])
        namespace.run(["ip", "route", "add", "unreachable", "10.9.0.0/16", "table", "100"])
        kernel.enforce(1, planned(given()), 0)
        kernel.lift(1)
        assert "24000:" in namespace.run(["ip", "rule"]).stdout
        assert "10.9.0.0/16" in namespace.run(["ip", "route", "show", "table", "100"]).stdout


OWNER = Owner("vpn0", "vpn.example:443", GATEWAY)
BLOCK = Plan(
    frozenset({Rule(4, FIRST_TABLE, MAIN, shorter_than=8), Rule(4, FIRST_TABLE + 1, FIRST_TABLE)}),
    frozenset({Route(EVERYTHING[4], Kind.BLOCKED)}),
)


def next_slot() -> int:
    slot = Slot.claim()
    slot.forget()
    return slot.number


def test_a_slot_is_its_process_until_that_is_gone() -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        slot = Slot.claim()
        slot.write(OWNER)
        kernel.enforce(slot.number, BLOCK, 0)
        assert (blocked(), unblock(), next_slot()) == ([], [], 1)
        slot.leave()  # as when its process ends
        assert [owner for _, owner in ownerless()] == [OWNER]
        assert [str(each) for each in blocked()] == ["0.0.0.0/0 (of vpn0 to vpn.example:443)"]
        assert next_slot() == 1
        assert [each.owner for each in unblock()] == [OWNER]
        assert (kernel.held(), blocked(), list(ownerless())) == ({}, [], [])


def test_what_no_file_names_is_found_and_lifted_all_the_same() -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        kernel.enforce(0, BLOCK, 0)
        assert [str(each) for each in blocked()] == ["0.0.0.0/0 (of table 24740)"]
        assert next_slot() == 1
        assert [each.slot for each in unblock()] == [0]
        assert kernel.held() == {}


@pytest.mark.parametrize(
    "spoilt", ["{}", "[]", "garbage", '{"tunnel": 1}', '{"tunnel": "a b", "server": "", "gateway": "x"}']
)
def test_a_file_that_says_nothing_does_not_keep_it_blocked(spoilt: str, tmp_path: Path) -> None:
    with Namespace("guarded") as namespace, namespace.entered():
        slot = Slot.claim()
        slot.write(OWNER)
        kernel.enforce(slot.number, BLOCK, 0)
        slot.leave()
        (file,) = (tmp_path / "run").iterdir()
        file.write_text(spoilt)
        assert [each.owner for each in blocked()] == [None]
        assert len(unblock()) == 1
        assert kernel.held() == {}
