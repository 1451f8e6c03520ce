"""Rules and routes of a machine, made for real, and what they really match."""

from __future__ import annotations

import pytest
from qosctl.supervisor.doctor import host_snapshot, rules
from qosctl.supervisor.doctor.finding import Finding, Level
from qosctl.supervisor.doctor.netlink import NEW_RULE, Netlink, attribute
from qosctl.supervisor.doctor.probe_netns import ProbeNetns
from qosctl.supervisor.doctor.scratch_netns import started

from tests.lab.wire import ADDRESSES, NEAR, Stand
from tests.supervisor.doctor.looking import bad, causes, one


def look() -> list[Finding]:
    found = list(host_snapshot.selectors())
    with started("test", lambda: rules.matches(ProbeNetns(), found)) as matched:
        return list(rules.check(found, matched.result()))


@pytest.mark.usefixtures("stand")
def test_a_machine_without_such_rules() -> None:
    assert bad(look()) == {}


@causes("rules", "it routes classes that were not meant")
@causes("rules-families", "has no such rule")
def test_a_rule_that_catches_more_than_it_says(stand: Stand) -> None:
    stand.sender.run(["ip", "rule", "add", "tos", "0x18", "table", "77", "priority", "500"])
    found = look()
    assert bad(found) == {"rules": Level.WARN, "rules-families": Level.WARN}
    seen = one(found, "rules")
    assert seen.seen.startswith("ip -4 rule tos 0x18 table 77 priority 500 matches 8 DSCPs")
    assert "EF among them" in seen.means
    assert "ip -4 rule del priority 500; ip -4 rule add dscp 6 table 77" in seen.fix


def test_the_same_rule_in_both_families_is_exact_on_ipv6(stand: Stand) -> None:
    for family in ("-4", "-6"):
        stand.sender.run(["ip", family, "rule", "add", "tos", "0x08", "table", "77", "priority", "500"])
    assert [finding.level for finding in look()] == [Level.WARN, Level.PASS]


@causes("rules", "matches no packet at all")
def test_a_route_that_nothing_takes(stand: Stand) -> None:
    stand.sender.run(["ip", "route", "add", "10.1.0.0/16", "tos", "0xb8", "via", ADDRESSES[4][1], "dev", NEAR])
    seen = one(look(), "rules")
    assert seen.seen == "ip -4 route 10.1.0.0/16 tos 0xb8 table 254 matches no packet at all"
    assert seen.level is Level.WARN


@pytest.mark.usefixtures("stand")
def test_the_exact_selector_is_fine() -> None:
    """The installed tools cannot set it; the kernel can."""
    for family in (2, 10):
        body = bytes([family, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]) + attribute(15, 77) + attribute(6, 500)
        with Netlink() as here:
            here.must(NEW_RULE, body + attribute(25, bytes([46])))
    assert bad(look()) == {}
    assert look()[0].seen == "ip -4 rule dscp 46 table 77 priority 500 matches EF and nothing else"
