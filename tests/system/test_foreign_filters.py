"""attach and detach leave other people's queues and filters as they found them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import Wiretap
from tests.system.traces import filters, tc

EF, CS1 = 46 << 2, 8 << 2
HOOKS = ("tcx", "clsact")


# Somebody else's program, in classic BPF: load the IPv4 TOS byte behind the Ethernet header; drop EF, and have no opinion
# of the rest. What it drops tells that it runs, and that it sees what we stamped.
DROP_EF = "4,48 0 0 15,21 0 1 184,6 0 0 2,6 0 0 4294967295"


@pytest.fixture
def foreign_filter(line: Line) -> Iterator[None]:
    """A filter of somebody else on the same device."""
    line.client.run(["tc", "qdisc", "add", "dev", line.device, "clsact"])
    program = ["bpf", "bytecode", DROP_EF, "direct-action"]
    line.client.run(["tc", "filter", "add", "dev", line.device, "egress", "protocol", "all", "prio", "20", *program])
    yield
    line.client.run(["tc", "qdisc", "del", "dev", line.device, "clsact"])


def _of_others(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["pref"] == 20]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_bare_device_is_bare_again(line: Line, hook: str) -> None:
    before = tc(line.client, "qdisc", "show"), filters(line.client, line.device)
    line.qosctl("attach", line.device, "--hook", hook)
    line.qosctl("detach", line.device)
    assert (tc(line.client, "qdisc", "show"), filters(line.client, line.device)) == before


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.usefixtures("foreign_filter")
def test_a_foreign_filter_stays_and_sees_the_stamped_packet(line: Line, tap: Wiretap, inside: Inside, hook: str) -> None:
    before = filters(line.client, line.device)
    with line.attached(hook), line.connected():
        assert _of_others(filters(line.client, line.device)["egress"]) == before["egress"]
        inside.send(b"EF, off", EF)
        line.qosctl("passtos", "on")
        assert len(tap.carried(1, b"EF, off")) == 1
        for _ in range(5):
            inside.send(b"EF, on", EF)
            inside.send(b"CS1, on", CS1)
        records = tap.carried(5, b"CS1, on")
        assert [record.frame.dscp for record in records] == [CS1 >> 2] * 5
        assert tap.carried(0, b"EF, on") == []
        # Ours stamped what theirs dropped; the numbering may have put a probe beside it.
        assert line.qosctl.read("status")["devices"][0]["outer"]["EF"]["packets"] >= 5
    assert filters(line.client, line.device) == before


@pytest.mark.parametrize("hook", HOOKS)
def test_a_filter_that_came_later_keeps_its_qdisc(line: Line, hook: str) -> None:
    line.qosctl("attach", line.device, "--hook", hook)
    line.client.run(["tc", "qdisc", "add", "dev", line.device, "clsact"], check=False)  # there already with one hook
    line.client.run(["tc", "filter", "add", "dev", line.device, "ingress", "u32", "match", "u32", "0", "0"])
    line.qosctl("detach", line.device)
    left = filters(line.client, line.device)
    line.client.run(["tc", "qdisc", "del", "dev", line.device, "clsact"])
    assert [entry["kind"] for entry in left["ingress"]] == ["u32"] * len(left["ingress"])
    assert left["ingress"]
    assert left["egress"] == []


def test_changing_the_hook_moves_the_program(line: Line) -> None:
    before = filters(line.client, line.device)
    with line.attached("clsact"):
        assert [entry["kind"] for entry in filters(line.client, line.device)["egress"]][:1] == ["bpf"]
        line.qosctl("attach", line.device, "--hook", "tcx")
        assert line.qosctl.read("status")["devices"][0]["hook"] == "tcx"
        assert filters(line.client, line.device) == before
