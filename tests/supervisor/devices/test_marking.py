"""Packets as a real machine sends them: shapes that a test run cannot make, and what they look like at the far end."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from qosctl.bpf.abi import mark_word
from qosctl.bpf.dscp import EF
from qosctl.bpf.kernel import syscall
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos

from tests.bpf.program.table import ETHERNET_SHAPES, NUMBER, Shape
from tests.lab import Capture, Namespace, veth
from tests.lab.packets import frame, ipv4, ipv6, record, udp
from tests.lab.program import FLOW4, FLOW6, changed_sources, own
from tests.lab.wire import ADDRESSES, FAR, NEAR, PORTS, Stand, both_hooks, pinned

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_VNET_HDR, _PACKET_OUTGOING = 263, 8, 15, 4
_UDP_SEGMENT = 103
_SO_ZEROCOPY, _MSG_ZEROCOPY = 60, 0x4000000


def on(stand: Stand, device: str = NEAR, kind: HookKind = HookKind.AUTO) -> None:
    attach([device], kind)
    set_passtos(True)
    del stand


def counters(stand: Stand) -> DeviceCounters:
    return pins_of(stand.index).read_counters()


@contextmanager
def flows_of_the_table() -> Iterator[None]:
    """FLOW4 and FLOW6 with a mark for NUMBER."""
    ring = Ring(own("tun-test"))
    ring.marks[NUMBER % len(ring.marks)] = mark_word(NUMBER, EF)
    with open_state() as state:
        state.flows.add(FLOW4, ring)
        state.flows.add(FLOW6, ring)
    yield
    ring.close()


@contextmanager
def raw_socket(namespace: Namespace, device: str) -> Iterator[socket.socket]:
    with namespace.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with sock:
        sock.bind((device, _ETH_P_ALL))
        sock.settimeout(5)
        yield sock


def received(sock: socket.socket, wanted: bytes) -> bool:
    """Whether these very bytes arrive."""
    while True:
        try:
            data, address = sock.recvfrom(65536)
        except TimeoutError:
            return False
        if address[2] != _PACKET_OUTGOING and data == wanted:
            return True


@both_hooks
def test_every_shape_of_the_table_arrives_stamped_and_otherwise_untouched(stand: Stand, kind: HookKind) -> None:
    """Sent as raw frames, in-band tags included; read back bit for bit."""
    on(stand, kind=kind)
    with flows_of_the_table(), raw_socket(stand.sender, NEAR) as near, raw_socket(stand.watcher, FAR) as far:
        for name, shape in ETHERNET_SHAPES.items():
            if len(shape(0)) > 1514:
                continue
            near.send(shape(0x02))
            wanted = without_tag(shape(EF.value << 2 | 0x02))
            assert received(far, wanted), name


def without_tag(sent: bytes) -> bytes:
    """A receiving kernel takes the outer VLAN tag out of the bytes."""
    return sent[:12] + sent[16:] if sent[12:14] in (b"\x81\x00", b"\x88\xa8") else sent


@pytest.mark.parametrize(
    "shape",
    [
        lambda tc: frame(ipv4(udp(record(NUMBER, bytes(5000))), traffic_class=tc)),
        lambda tc: frame(ipv6(udp(record(NUMBER, bytes(5000))), traffic_class=tc)),
    ],
    ids=["ipv4", "ipv6"],
)
@pytest.mark.parametrize("linear", [14, 20, 40, 60, 80])
def test_headers_outside_the_linear_part(stand: Stand, shape: Shape, linear: int) -> None:
    """All but the first bytes in page fragments: a header at a time is where direct access does not reach."""
    for namespace, device in ((stand.sender, NEAR), (stand.watcher, FAR)):
        namespace.run(["ip", "link", "set", device, "mtu", "9000"])
    on(stand)
    with flows_of_the_table(), raw_socket(stand.sender, NEAR) as near, raw_socket(stand.watcher, FAR) as far:
        near.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        near.send(struct.pack("=BBHHHH", 0, 0, linear, 0, 0, 0) + shape(0x01))
        assert received(far, shape(EF.value << 2 | 0x01))
    assert counters(stand).outer[EF].packets == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_record_whose_payload_was_never_copied(stand: Stand, version: int) -> None:
    on(stand)
    with stand.tunnel(version) as tunnel, stand.watching() as wire:
        tunnel.socket.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
        tunnel.ring.marks[5] = mark_word(5, EF)
        tunnel.socket.send(record(5, bytes(1200)), _MSG_ZEROCOPY)
        (seen,) = wire.wait_for(bool)
    assert (seen.dscp, seen.payload, seen.header_checksum_right) == (EF.value, record(5, bytes(1200)), True)


@pytest.mark.parametrize("version", [4, 6])
def test_a_batch_is_stamped_in_every_segment_and_counted_so(stand: Stand, version: int) -> None:
    on(stand)
    records = [record(number, bytes(500)) for number in range(1, 8)] + [record(8, bytes(100))]
    with stand.tunnel(version) as tunnel, stand.watching() as wire:
        tunnel.ring.marks[1] = mark_word(1, EF)
        tunnel.socket.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, len(records[0]))
        tunnel.socket.send(b"".join(records))
        frames = wire.wait_for(lambda frames: len(frames) == len(records))
    assert [seen.payload for seen in frames] == records
    assert {(seen.dscp, seen.ecn, seen.header_checksum_right) for seen in frames} == {(EF.value, 0, True)}
    headers = 14 + (20 if version == 4 else 40) + 8
    counted = counters(stand).outer[EF]
    assert (counted.packets, counted.bytes) == (len(records), sum(headers + len(one) for one in records))


@pytest.mark.parametrize("version", [4, 6])
def test_all_fragments_of_a_datagram_stay_alike(stand: Stand, version: int) -> None:
    on(stand)
    with stand.tunnel(version) as tunnel, Capture(stand.watcher, FAR) as wire:
        tunnel.send(1, body=bytes(4000))
        source = ADDRESSES[version][0]
        frames = wire.wait_for(lambda frames: len([f for f in frames if f.source == source and len(f.payload) > 900]) >= 3)
    assert {seen.dscp for seen in frames if seen.source == source} == {0}
    assert counters(stand).outcomes[Outcome.FRAGMENT] == 3


def test_an_offloaded_vlan_tag(stand: Stand) -> None:
    """Pushed by somebody else's program ahead of ours: the tag is in the skb's metadata, not among its bytes."""
    on(stand)
    with changed_sources() as sources:
        (sources / "egress.c").write_text(
            "int qosctl_egress(struct __sk_buff *skb) { bpf_skb_vlan_push(skb, bpf_htons(0x8100), 77); return -1; }\n"
        )
        program = BccLoader(sources).load(sources, sources, ethernet=True)
    link = syscall.link_create_tcx_first(program, stand.index)
    with stand.tunnel() as tunnel, raw_socket(stand.watcher, FAR) as far:
        far.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        tunnel.send(1)
        while True:
            data, ancillary, _, _ = far.recvmsg(2048, 128)
            if data[36:38] == PORTS[1].to_bytes(2):
                break
    tag = struct.unpack_from("=IIIHHHH", ancillary[0][2])[5]
    assert (tag & 0xFFF, data[15] >> 2) == (77, EF.value)
    os.close(link)
    os.close(program)


def test_a_clone_is_stamped_and_its_original_is_not(stand: Stand) -> None:
    """The tunnel leaves by another wire, which mirrors its packets to ours: two skbs, one shared header."""
    with Namespace("other") as other, veth(stand.sender, "side", other, "far-side"):
        on(stand)
        with changed_sources() as sources:
            mirror = f"bpf_clone_redirect(skb, {stand.index}, 0); return -1;"
            (sources / "egress.c").write_text(f"int qosctl_egress(struct __sk_buff *skb) {{ {mirror} }}\n")
            program = BccLoader(sources).load(sources, sources, ethernet=True)
        link = syscall.link_create_tcx_first(program, socket.if_nametoindex("side"))
        stand.sender.run(["ip", "route", "add", "203.0.113.9", "dev", "side", "src", ADDRESSES[4][0]])
        stand.sender.run(["ip", "neigh", "add", "203.0.113.9", "lladdr", "02:00:00:00:00:09", "dev", "side"])
        ring = Ring(own("tun-test"))
        ring.marks[1] = mark_word(1, EF)
        with open_state() as state:
            state.flows.add(FlowKey((ADDRESSES[4][0], PORTS[0]), ("203.0.113.9", PORTS[1])), ring)
        with (
            stand.watching() as mirrored,
            Capture(other, "far-side", lambda seen: seen.destination_port == PORTS[1]) as original,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ):
            sock.bind((ADDRESSES[4][0], PORTS[0]))
            sock.sendto(record(1), ("203.0.113.9", PORTS[1]))
            (copy,), (first,) = mirrored.wait_for(bool), original.wait_for(bool)
        ring.close()
        os.close(link)
        os.close(program)
    assert (copy.dscp, copy.header_checksum_right) == (EF.value, True)
    assert (first.dscp, first.header_checksum_right) == (0, True)


def test_nobody_elses_packet_is_unshared_or_copied(stand: Stand) -> None:
    """A program that wrote to packets directly would get a prologue that makes every cloned packet's header private.

    That is each TCP packet, passtos off or not. Ours has none: only the helper that stamps makes a header writable.
    """
    attach([NEAR])
    ours = stand.sender.run(["bpftool", "prog", "dump", "xlated", "pinned", str(pins_of(stand.index).program)]).stdout
    assert "bpf_skb_store_bytes" in ours
    assert "bpf_skb_pull_data" not in ours
    with changed_sources() as sources:
        (sources / "egress.c").write_text(
            "int qosctl_egress(struct __sk_buff *skb) {\n"
            "unsigned char *data = (void *)(long)skb->data;\n"
            "if ((void *)(data + 1) <= (void *)(long)skb->data_end) *data = 2;\nreturn -1; }\n"
        )
        program = BccLoader(sources).load(sources, sources, ethernet=True)
    path = pinned(program, "direct")
    assert "bpf_skb_pull_data" in stand.sender.run(["bpftool", "prog", "dump", "xlated", "pinned", str(path)]).stdout
    path.unlink()
    os.close(program)


@both_hooks
@pytest.mark.parametrize("version", [4, 6])
def test_a_device_without_an_ethernet_header(stand: Stand, kind: HookKind, version: int) -> None:
    """A tun device, as other tunnels and raw-IP modems have: told apart by its kind."""
    tun_set_iff, tun, no_packet_information = 0x400454CA, 0x0001, 0x1000
    with open("/dev/net/tun", "r+b", buffering=0) as device:  # noqa: PTH123 - a device, not a file
        fcntl.ioctl(device, tun_set_iff, struct.pack("=16sH22x", b"raw0", tun | no_packet_information))
        local, remote = ("10.93.0.1", "10.93.0.2") if version == 4 else ("fd93::1", "fd93::2")
        stand.sender.run(["ip", "address", "add", f"{local}/64" if version == 6 else f"{local}/24", "dev", "raw0"])
        stand.sender.run(["ip", "link", "set", "raw0", "up"])
        on(stand, "raw0", kind)
        ring = Ring(own("tun-test"))
        ring.marks[1] = mark_word(1, EF)
        with (
            open_state() as state,
            socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock,
        ):
            state.flows.add(FlowKey((local, PORTS[0]), (remote, PORTS[1])), ring)
            sock.bind((local, PORTS[0]))
            sock.sendto(record(1), (remote, PORTS[1]))
        while True:
            packet = device.read(2048)
            if packet.endswith(record(1)):
                break
        ring.close()
    assert int.from_bytes(packet[:2]) >> (4 if version == 6 else 0) & 0xFF == EF.value << 2
    if version == 4:
        assert int.from_bytes(packet[:20]) % 0xFFFF == 0
