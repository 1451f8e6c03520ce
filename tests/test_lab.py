"""The laboratory itself: what other tests build on must be true, and must leave nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import (
    Bottleneck,
    Capture,
    LabError,
    Namespace,
    Ocserv,
    Tap,
    TappedRecord,
    Topology,
    TwoWays,
    bulk_bursts,
    bulk_tcp,
    bulk_udp,
    call,
    veth,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.parametrize("family", [4, 6])
def test_client_reaches_server_through_the_router(topology: Topology, family: int) -> None:
    with call(topology.client, topology.server, topology.server_address(family), seconds=0.1) as echoed:
        assert echoed.result().lost == 0


def test_a_failing_command_says_what_it_said(topology: Topology) -> None:
    with pytest.raises(LabError, match=r"^ip link show dev nosuch: exit 1: .*nosuch"):
        topology.client.run(["ip", "link", "show", "dev", "nosuch"])


def test_entering_a_namespace_moves_only_this_thread_and_comes_back(topology: Topology) -> None:
    before = os.readlink("/proc/thread-self/ns/net")  # noqa: PTH115 - the text of a link that names no path
    with topology.server.entered():
        assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]
    assert os.readlink("/proc/thread-self/ns/net") == before  # noqa: PTH115 - the same


def test_leaving_a_namespace_ends_its_processes_and_gives_back_its_name() -> None:
    with Namespace("short") as namespace, Namespace("other") as other, veth(namespace, "a", other, "b"):
        process = namespace.popen(["sleep", "60"])
        path = namespace.path
        assert path.exists()
    assert process.poll() == -signal.SIGTERM
    assert not path.exists()


def test_leaving_by_an_exception_cleans_as_well() -> None:
    namespace = Namespace("thrown")
    with pytest.raises(ZeroDivisionError), namespace:
        raise ZeroDivisionError
    assert not namespace.path.exists()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("traffic_class", [0x00, 0x01, 0xB8, 0xFF])
def test_a_capture_sees_dscp_ecn_ports_and_payload(topology: Topology, family: int, traffic_class: int) -> None:
    address = topology.server_address(family)
    with (
        Capture(topology.client, "eth0", lambda frame: frame.destination_port == 7777) as near,
        Capture(topology.server, "eth0", lambda frame: frame.destination_port == 7777) as far,
    ):
        with topology.client.entered():
            sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        with sock:
            if family == 4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
            before = time.time_ns()
            sock.sendto(b"hello", (address, 7777))
        (sent,), (received,) = near.wait_for(bool), far.wait_for(bool)
    for frame in (sent, received):
        assert (frame.family, frame.protocol, frame.payload) == (family, socket.IPPROTO_UDP, b"hello")
        assert (frame.dscp, frame.ecn) == (traffic_class >> 2, traffic_class & 3)
        assert frame.destination == address
        assert frame.header_checksum_right
        assert abs(frame.time_ns - before) < 60e9
    assert sent.outgoing
    assert not received.outgoing
    assert sent.source == (topology.client4 if family == 4 else topology.client6)


def test_batches_are_cut_before_the_wire(topology: Topology) -> None:
    udp_segment = 103
    with Capture(topology.client, "eth0", lambda frame: frame.destination_port == 7778) as capture:
        with topology.client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.IPPROTO_UDP, udp_segment, 100)
            sock.sendto(b"a" * 250, (topology.server4, 7778))
        frames = capture.wait_for(lambda frames: len(frames) == 3)
    assert [len(frame.payload) for frame in frames] == [100, 100, 50]


@pytest.mark.parametrize("family", [4, 6])
def test_ef_passes_the_bottleneck_while_bulk_queues_and_is_cut_to_the_rate(topology: Topology, family: int) -> None:
    address = topology.server_address(family)
    with Bottleneck(topology.router, topology.router_server_if, 10, bulk_bytes=125_000):
        with (
            bulk_udp(topology.client, topology.server, address, 20, seconds=1.5) as bulk,
            call(topology.client, topology.server, address, seconds=1.2) as marked,
            call(topology.client, topology.server, address, seconds=1.2, tos=0, port=4100) as plain,
        ):
            assert marked.result().lost == 0
            assert 0 < bulk.result().mbit < 11
            assert bulk.result().packets < bulk.result().packets_sent
            # The plain call stands in the bulk queue, or was dropped at its end; the marked one does neither.
            assert plain.result().lost > 0 or plain.result().p50_ms > marked.result().p50_ms
        shown = topology.router.run(["tc", "-s", "qdisc", "show", "dev", topology.router_server_if]).stdout
        assert re.search(r"bfifo .* parent 1:10 limit 50000b", shown)
    shown = topology.router.run(["tc", "qdisc", "show", "dev", topology.router_server_if]).stdout
    assert "htb" not in shown


def test_tcp_bulk_reports_what_arrived(topology: Topology) -> None:
    with bulk_tcp(topology.client, topology.server, topology.server4, seconds=1, flows=2) as bulk:
        assert bulk.result().mbit > 1


def test_ocserv_takes_a_real_client_on_dtls_and_leaves_nothing(topology: Topology) -> None:
    names = [topology.server4, topology.server6, "vpn.example"]
    with Ocserv(topology.server, names) as server:
        folder, pids = server.folder, server.pids()
        assert len(pids) >= 2
        login = ["openconnect", "--passwd-on-stdin", "-u", "alice", "--servercert", server.pin]
        client = topology.client.popen(
            [*login, "--script", "/bin/true", f"https://{topology.server4}:{server.port}"],
            stdin=server.password_file("alice").open(),
        )
        deadline = time.monotonic() + 20
        while "vpns0" not in topology.server.run(["ip", "-br", "link"]).stdout:
            assert client.poll() is None, server.log
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        pids = server.pids()
    assert not alive(pids)
    assert not folder.exists()
    assert "vpns0" not in topology.server.run(["ip", "-br", "link"]).stdout


def test_ocserv_that_cannot_start_shows_its_log(topology: Topology) -> None:
    with (
        pytest.raises(LabError, match=r"(?s)did not come up.*config file error"),
        Ocserv(topology.server, ["x"], more="nonsense"),
    ):
        pytest.fail("it started")


HOLDER = """
from tests.lab import *
enter_sandbox()
unwind_on_signals()
import pathlib, sys, time
with Topology() as t, Ocserv(t.server, [t.server4]) as o, Bottleneck(t.router, t.router_server_if):
    pathlib.Path("/sys/fs/bpf/here").mkdir()
    print(*o.pids(), t.client.popen(["sleep", "600"]).pid, o.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_its_process(sign: signal.Signals) -> None:
    """Even with SIGKILL; then the folder of temporary files stays, since nobody is left to remove it."""
    before = {path.name for path in Path("/run/netns").iterdir()}, {path.name for path in Path("/sys/fs/bpf").iterdir()}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        *pids, folder = holder.stdout.readline().split()
        assert len(alive(set(map(int, pids)))) == len(pids)
        holder.send_signal(sign)
    deadline = time.monotonic() + 10
    while alive(set(map(int, pids))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(set(map(int, pids)))
    if sign == signal.SIGKILL:
        subprocess.run(["rm", "-r", folder], check=True)
    assert not Path(folder).exists()
    after = {path.name for path in Path("/run/netns").iterdir()}, {path.name for path in Path("/sys/fs/bpf").iterdir()}
    assert after == before


def test_bursts_are_written_at_once_and_counted(topology: Topology) -> None:
    with bulk_bursts(topology.client, topology.server, topology.server4, 24, 0.2, seconds=0.5) as bulk:
        assert (bulk.result().packets_sent, bulk.result().packets) == (60, 60)


def test_a_tap_notes_records_in_the_order_they_come_and_nothing_else(topology: Topology) -> None:
    def record(number: int, kind: int = 23) -> bytes:
        return bytes([kind]) + b"\xfe\xfd" + number.to_bytes(8) + (5).to_bytes(2) + b"12345"

    with Tap(topology.server, "eth0", 7788) as tap:
        with topology.client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
            for number in (1 << 48 | 7, 3, 9):
                sock.sendto(record(number), (topology.server4, 7788))
            sock.sendto(record(4, kind=22), (topology.server4, 7788))
            sock.sendto(record(5), (topology.server4, 7789))
            sock.sendto(b"short", (topology.server4, 7788))
        time.sleep(0.1)
        assert tap.records() == [TappedRecord(number, 18, 46) for number in (1 << 48 | 7, 3, 9)]


def test_two_ways_hold_every_other_datagram_and_lose_what_the_second_has_no_room_for(topology: Topology) -> None:
    # 1,042 bytes on the wire take 2.5 ms on the second way, and its queue holds 8 of them.
    ways = TwoWays(topology.router, "toserver", 7799, kbit=3334, hold_ms=20.1)
    with ways, Capture(topology.server, "eth0", lambda frame: frame.destination_port == 7799) as far:
        with topology.client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            for number in range(40):
                sock.sendto(number.to_bytes(2) + bytes(998), (topology.server4, 7799))
        time.sleep(0.3)
        frames = far.frames()
    arrived = [int.from_bytes(frame.payload[:2]) for frame in frames]
    parity = arrived[-1] % 2  # of those that waited
    held, at_once = ([number for number in arrived if number % 2 == each] for each in (parity, 1 - parity))
    assert len(at_once) == 20 and at_once == sorted(at_once)
    assert 8 <= len(held) <= 14 and held == sorted(held)
    assert arrived[-5:] == held[-5:]
    assert frames[-1].time_ns - frames[0].time_ns > 15e6
