"""Queues and filters of Debian's kernel that other kernels lack, made for real. By name only: elsewhere it would fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.status import status
from qosctl.supervisor.doctor import foreign_programs
from qosctl.supervisor.doctor.finding import Level

from tests.lab import Namespace
from tests.lab.wire import NEAR, stand


@pytest.fixture(name="lone")
def lone_fixture() -> Iterator[Namespace]:
    with Namespace("lone") as lone, lone.entered():
        lone.run(["ip", "link", "add", NEAR, "type", "veth", "peer", "name", "raen"])
        yield lone


@pytest.mark.parametrize(
    ("root", "level"),
    [
        ("cake besteffort", Level.WARN),
        ("cake diffserv4 bandwidth 10mbit", Level.PASS),
        ("cake diffserv3", Level.PASS),
        ("cake diffserv8", Level.PASS),
        ("prio", Level.PASS),
        ("mq", Level.WARN),
        ("fq_codel", Level.WARN),
        ("fq", Level.WARN),
        ("sfq", Level.WARN),
        ("codel", Level.WARN),
        ("pie", Level.WARN),
        ("pfifo", Level.WARN),
        ("tbf rate 1mbit burst 10k latency 50ms", Level.WARN),
        ("netem delay 1ms", Level.WARN),
        ("noqueue", Level.WARN),
        ("pfifo_fast", Level.PASS),
        ("htb", Level.PASS),
        ("hfsc", Level.PASS),
        ("drr", Level.PASS),
        ("ets bands 2", Level.PASS),
        ("qfq", Level.PASS),
    ],
)
def test_whether_a_real_queue_looks_at_the_mark(lone: Namespace, root: str, level: Level) -> None:
    lone.run(["sysctl", "-qw", "net.core.default_qdisc=fq_codel"], check=False)  # an mq's children
    lone.run(["tc", "qdisc", "replace", "dev", NEAR, "root", *root.split()])
    found = foreign_programs.queue(NEAR)
    assert found.level is level, found
    assert root.partition(" ")[0] in found.seen
    assert ("besteffort" in found.seen) is ("besteffort" in root)


def test_an_action_behind_us_that_rewrites_packets() -> None:
    with stand() as built:
        attach([NEAR], HookKind.CLSACT)
        where = ["tc", "filter", "add", "dev", NEAR, "egress", "protocol", "ip", "prio", "9"]
        edit = ["action", "pedit", "ex", "munge", "ip", "tos", "set", "0x28", "retain", "0xfc"]
        built.sender.run([*where, "u32", "match", "u32", "0", "0", *edit])
        known = {device.name: device for device in status().devices}
        found = [finding for finding in foreign_programs.check([NEAR], known) if finding.check == "behind"]
    assert [(finding.level, "that rewrites packets, priority 9" in finding.seen) for finding in found] == [
        (Level.WARN, True)
    ]
