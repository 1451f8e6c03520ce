"""What the kernel has learnt of the way to one address does not count as a route of the machine's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.plan import Kind, Plan

from tests.lab import Namespace, veth
from tests.lab.icmp import Forger
from tests.lab.waiting import until
from tests.supervisor.kill_switch.test_kill_switch import V4, V6, given, planned

HERE = {4: "192.0.2.77", 6: "fd91::77"}
ROUTER = {4: "192.0.2.254", 6: "fd91::254"}
FAR = {4: "198.51.100.7", 6: "fd55::7"}
MTU = 1300


@dataclass(frozen=True)
class Taught:
    """A machine, and the router that its default routes lead to."""

    namespace: Namespace
    router: Namespace

    def teach(self, version: int) -> None:
        """Have the router say that large packets do not get to FAR, and the kernel hear it."""
        before = self._errors(version)
        Forger(self.router, HERE[version], FAR[version], 0).too_big_for_echo(MTU)
        until(lambda: self._errors(version) != before)

    def way(self, version: int) -> str:
        """Return the way to FAR; empty where there is none."""
        return self.namespace.run(["ip", f"-{version}", "route", "get", FAR[version]], check=False).stdout

    def _errors(self, version: int) -> list[str]:
        said = self.namespace.run(["cat", f"/proc/net/snmp{'' if version == 4 else 6}"]).stdout
        return [line for line in said.splitlines() if line.startswith(("Icmp:", "Icmp6InPktTooBigs"))]


@pytest.fixture
def machine() -> Iterator[Taught]:
    """A machine whose router has said that large packets do not get to FAR."""
    with Namespace("taught") as namespace, Namespace("router") as router, veth(namespace, "up0", router, "up1"):
        for version, length in ((4, 24), (6, 64)):
            nodad = ["nodad"] if version == 6 else []
            for each, address, device in ((namespace, HERE, "up0"), (router, ROUTER, "up1")):
                each.run(["ip", "addr", "add", f"{address[version]}/{length}", "dev", device, *nodad])
            namespace.run(["ip", f"-{version}", "route", "add", "default", "via", ROUTER[version]])
        taught = Taught(namespace, router)
        for version in (4, 6):
            taught.teach(version)
        until(lambda: all(f"mtu {MTU}" in taught.way(version) for version in (4, 6)))
        yield taught


@pytest.mark.audit
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("some", [False, True], ids=["everything", "some"])
def test_a_path_mtu_that_was_learnt_before_lets_nothing_out(machine: Taught, version: int, some: bool) -> None:
    """Finding 2: IPv6 keeps it as a route to that address alone, more specific than whatever the server names."""
    named = (ip_network("198.51.100.0/24"), ip_network("fd55::/16")) if some else ()
    made = planned(given(V4, V6, include=named, splits=frozenset({4, 6} if some else {})))
    with machine.namespace.entered():
        kernel.enforce(0, Plan(made.rules, frozenset(route for route in made.routes if route.kind is not Kind.TUNNEL)), 0)
        assert "up0" not in machine.way(version)
        machine.teach(version)
        assert "up0" not in machine.way(version)
        kernel.lift(0)
        assert "up0" in machine.way(version)
