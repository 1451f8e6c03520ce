"""Real maps, real packets, the real command: what a scrape says is what the kernel has."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.flow_page.page import statistics_in
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.maps import namespace_maps
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.read_count import ReadCount

from tests.lab import Namespace, Qosctl, veth
from tests.lab.exporter import Exporter
from tests.lab.qosctl import COMMAND
from tests.lab.wire import foreign_program
from tests.metrics.marked import HERE, NUMBER, PEER, RECORD, flow, sender

TC_ACT_OK = 0


def folder(namespace: Namespace) -> Path:
    with namespace.entered():
        return namespace_maps.folder()


def test_nothing_attached_is_off_with_no_devices(bare: Namespace, exporter: Exporter) -> None:
    del bare
    answer = exporter.scrape()
    assert answer("qosctl_passtos_enabled") == 0
    assert answer.labelled("qosctl_program_attached", "device") == {}
    assert answer.labelled("qosctl_packets_total", "device") == {}
    assert set(answer.readable.values()) == {1}


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_an_attached_program_is_shown_with_its_hook_and_tag(bare: Namespace, exporter: Exporter, hook: str) -> None:
    qosctl = Qosctl(bare)
    before = int(time.time()) - 1
    qosctl.attach("eth0", hook)
    (device,) = qosctl.read("status")["devices"]
    answer = exporter.scrape()
    assert answer("qosctl_program_attached", device="eth0") == 1
    assert answer("qosctl_program_info", device="eth0", hook=hook, tag=device["program"]["tag"]) == 1
    assert before <= answer("qosctl_program_load_timestamp_seconds", device="eth0") <= time.time()


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_foreign_programs_ahead_are_counted_and_one_that_ends_the_chain_hides_the_packets(
    bare: Namespace, exporter: Exporter, hook: str
) -> None:
    qosctl = Qosctl(bare)
    qosctl.attach("eth0", hook)
    assert exporter.scrape().labelled("qosctl_foreign_programs_ahead", "device") == {"eth0": 0}
    with bare.entered():
        program = foreign_program(ttl=77, verdict=TC_ACT_OK)
        link = syscall.link_create_tcx_first(program, socket.if_nametoindex("eth0"))
    try:
        with sender(bare) as sock:
            sock.send(RECORD)
        answer = exporter.scrape()
        assert answer.labelled("qosctl_foreign_programs_ahead", "device") == {"eth0": 1}
        assert sum(answer.labelled("qosctl_packets_total", "outcome", device="eth0").values()) == 0
    finally:
        os.close(link)
        os.close(program)
    assert exporter.scrape().labelled("qosctl_foreign_programs_ahead", "device") == {"eth0": 0}


def test_counters_are_what_status_says_and_what_was_sent(bare: Namespace, exporter: Exporter) -> None:
    qosctl = Qosctl(bare)
    qosctl.attach("eth0")
    with sender(bare) as sock, flow(bare, sock.getsockname()[1]) as ring:
        sock.send(RECORD)
        qosctl("passtos", "on")
        assert exporter.scrape()("qosctl_passtos_enabled") == 1
        ring.marks[NUMBER % RING_WORDS] = mark_word(NUMBER, EF)
        for _ in range(3):
            sock.send(RECORD)
        ring.marks[NUMBER % RING_WORDS] = mark_word(NUMBER, Dscp.of(5))
        sock.send(RECORD)
        ring.marks[NUMBER % RING_WORDS] = 0
        sock.send(RECORD)
    with sender(bare) as other:
        other.send(b"hello")
    answer, (device,) = exporter.scrape(), qosctl.read("status")["devices"]
    outcomes = answer.labelled("qosctl_packets_total", "outcome", device="eth0")
    assert outcomes == device["outcomes"]
    assert {name: count for name, count in outcomes.items() if count} == {
        "off": 1,
        "stamped": 4,
        "no_mark": 1,
        "no_flow": 1,
    }
    wire = len(RECORD) + 8 + 20 + 14
    assert answer.labelled("qosctl_outer_packets_total", "dscp", device="eth0") == {"EF": 3, "5": 1}
    assert answer.labelled("qosctl_outer_bytes_total", "dscp", device="eth0") == {"EF": 3 * wire, "5": wire}
    for name, value in device["outer"].items():
        assert answer("qosctl_outer_bytes_total", device="eth0", dscp=name) == value["bytes"]


def test_the_switch_is_read_anew_at_each_scrape(bare: Namespace, exporter: Exporter) -> None:
    qosctl = Qosctl(bare)
    qosctl.attach("eth0")
    for word, value in (("on", 1), ("off", 0), ("on", 1)):
        qosctl("passtos", word)
        assert exporter.scrape()("qosctl_passtos_enabled") == value


def test_a_policy_of_the_operators_own_is_told_from_the_default(with_maps: Namespace, exporter: Exporter) -> None:
    assert exporter.scrape()("qosctl_policy_custom") == 0
    with with_maps.entered(), namespace_maps.open_state() as opened:
        opened.policy.write(Policy.allow(EF))
    assert exporter.scrape()("qosctl_policy_custom") == 1


def test_flows_are_counted_by_whether_their_owner_lives(with_maps: Namespace, exporter: Exporter) -> None:
    with flow(with_maps, 1001), flow(with_maps, 1002), flow(with_maps, 1003, alive=False):
        assert exporter.scrape().labelled("qosctl_flows", "owner") == {"alive": 2, "dead": 1}
    assert exporter.scrape().labelled("qosctl_flows", "owner") == {"alive": 0, "dead": 0}


def test_a_clients_statistics_go_by_tunnel_and_die_with_it(with_maps: Namespace, exporter: Exporter) -> None:
    with flow(with_maps, 1001, "tun7") as living, flow(with_maps, 1002, "tun8", alive=False) as dead:
        for ring in (living, dead):
            statistics_in(ring.page)[Statistic.PACKETS_SENT] = 12
            statistics_in(ring.page)[Statistic.DPD_ROUND_TRIP_US] = 2500
        answer = exporter.scrape()
    assert answer.labelled("qosctl_tunnel_sent_packets_total", "device") == {"tun7": 12}
    assert answer.labelled("qosctl_tunnel_dpd_round_trip_seconds", "device") == {"tun7": pytest.approx(0.0025)}


def test_no_address_port_or_server_is_shown(with_maps: Namespace, exporter: Exporter) -> None:
    with flow(with_maps, 1001):
        text = exporter.get()[1]
    assert not [word for word in (HERE, PEER, "4443", "1001", "vpn.example") if word in text]


@pytest.mark.parametrize(
    ("pin", "unreadable"),
    [
        ("flow_slots", {"flows"}),
        ("rings", {"flows"}),
        ("policy", {"policy"}),
        ("control", {"switch", "policy"}),
        ("devices/4711/counters", {"devices"}),
    ],
)
@pytest.mark.parametrize("damage", ["removed", "another map"])
def test_a_damaged_part_is_a_gauge_at_0_and_the_others_are_answered(
    with_maps: Namespace, exporter: Exporter, pin: str, unreadable: set[str], damage: str
) -> None:
    with with_maps.entered():
        pins_of(4711).create("gone0")
        pins_of(4712).create("gone1")
    path = folder(with_maps) / pin
    path.unlink()
    if damage == "another map":
        fd = syscall.map_create(syscall.MapShape(syscall.MAP_TYPE_ARRAY, 4, 4, 1), "stranger")
        syscall.obj_pin(fd, str(path))
        os.close(fd)
    answer = exporter.scrape()
    assert {part for part, fine in answer.readable.items() if not fine} == unreadable
    assert answer("qosctl_packets_total", device="gone1", outcome="off") == 0
    assert ("qosctl_passtos_enabled", frozenset()) in answer or "switch" in unreadable
    assert bool(answer.labelled("qosctl_flows", "owner")) == ("flows" not in unreadable)


def test_a_damaged_part_is_said_once_and_its_mending_too(with_maps: Namespace) -> None:
    pin = folder(with_maps) / "rings"
    aside = pin.with_name("aside")
    with Exporter(with_maps) as exporter:
        for path, to in ((pin, aside), (aside, pin)):
            path.rename(to)
            for _ in range(3):
                exporter.scrape()
        status, errors = exporter.stop()
    assert status == 0
    assert errors.splitlines() == [
        "qosctl: metrics: flows: [Errno 2] No such file or directory",
        "qosctl: metrics: flows: readable again",
    ]


def test_a_scrape_waits_for_no_lock(with_maps: Namespace, exporter: Exporter) -> None:
    del with_maps
    with bpffs.locked():
        assert set(exporter.scrape().readable.values()) == {1}


def test_scrapes_during_attach_and_detach_are_answered_and_true(bare: Namespace, exporter: Exporter) -> None:
    qosctl = Qosctl(bare)
    qosctl.attach("eth0")
    for words in (["attach", "--hook", "clsact", "eth0"], ["attach", "--hook", "tcx", "eth0"], ["detach", "eth0"]):
        process = bare.popen([str(COMMAND), *words])
        while process.poll() is None:
            answer = exporter.scrape()
            assert set(answer.readable.values()) == {1}
            if words[0] == "attach":  # there is no moment without a program
                assert answer("qosctl_program_attached", device="eth0") == 1
        assert process.returncode == 0


def test_a_program_removed_by_others_shows_as_0(bare: Namespace, exporter: Exporter) -> None:
    Qosctl(bare).attach("eth0", "clsact")
    bare.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"])
    answer = exporter.scrape()
    assert answer("qosctl_program_attached", device="eth0") == 0
    assert answer.labelled("qosctl_program_info", "device") == {}


def test_a_deleted_device_keeps_its_counters_until_its_successor_is_attached(bare: Namespace, exporter: Exporter) -> None:
    qosctl = Qosctl(bare)
    with Namespace("far") as far:
        for _ in range(2):
            with veth(bare, "short0", far, "far0"):
                qosctl.attach("short0")
                with bare.entered():
                    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                with sock:
                    sock.bind(("short0", 0))
                    sock.send(bytes(12) + b"\x88\xb5" + bytes(46))
                answer = exporter.scrape()
                assert answer("qosctl_program_attached", device="short0") == 1
                assert answer("qosctl_packets_total", device="short0", outcome="off") >= 1
            gone = exporter.scrape()
            assert gone("qosctl_program_attached", device="short0") == 0
            assert gone("qosctl_packets_total", device="short0", outcome="off") >= 1


@pytest.mark.parametrize("name", [b'we"ird\\', b"\xff\xfe", "größe".encode()], ids=["quotes", "bytes", "letters"])
def test_any_name_that_a_device_can_have_is_one_label(bare: Namespace, exporter: Exporter, name: bytes) -> None:
    qosctl = Qosctl(bare)
    with Namespace("far") as far, veth(bare, "plain0", far, "far0"):
        qosctl.attach("plain0")
        bare.run(["ip", "link", "set", "dev", "plain0", "down"])
        bare.run(["ip", "link", "set", "dev", "plain0", "name", os.fsdecode(name)])
        answer = exporter.scrape()
        bare.run(["ip", "link", "set", "dev", os.fsdecode(name), "name", "plain0"])
    shown = name.decode("utf-8", "backslashreplace") if name != b"\xff\xfe" else r"\udcff\udcfe"
    assert answer.labelled("qosctl_program_attached", "device") == {shown: 1}


def test_what_is_followed_is_counted_by_pattern_however_many_devices_it_means(bare: Namespace, exporter: Exporter) -> None:
    qosctl = Qosctl(bare)
    qosctl("follow", "vpns*", "tun*")
    answer = exporter.scrape()
    for count in ReadCount:
        assert answer.labelled(f"{count.metric}_total", "pattern") == {"vpns*": 0, "tun*": 0}
    assert answer.readable["followed"] == 1
    qosctl("unfollow", "--all")
    assert exporter.scrape().labelled("qosctl_followed_read_packets_total", "pattern") == {}
