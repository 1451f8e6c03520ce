"""TUN devices in a namespace of their own. What the kernel says of them is read with ip(8), not with our own eyes."""

import json
import select
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any

import pytest
from qosctl.bpf.dscp import EF
from qosctl.bpf.errors import NotAttachedError, RefusedError, UsageError
from qosctl.dtls.packets.inner_header import dscp_of
from qosctl.dtls.transport.netdev import MAX_MTU
from qosctl.dtls.transport.tun import Tun

from tests.lab import Namespace

V4 = ip_interface("10.77.0.2/24")
V6 = ip_interface("fd77::2/64")


@pytest.fixture
def inside() -> Iterator[Namespace]:
    """The test runs in a fresh namespace."""
    with Namespace("tun") as namespace, namespace.entered():
        yield namespace


def links(namespace: Namespace) -> dict[str, dict[str, Any]]:
    shown = json.loads(namespace.run(["ip", "-json", "address", "show"]).stdout)
    return {link["ifname"]: link for link in shown}


def addresses(link: dict[str, Any]) -> set[str]:
    """The addresses we gave: not the link-local one that the kernel adds."""
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


def test_a_device_has_the_name_mtu_and_addresses_it_was_given(inside: Namespace) -> None:
    with Tun.create("vpn0", 1380, [V4, V6]) as tun:
        assert tun.name == "vpn0"
        link = links(inside)["vpn0"]
        assert link["mtu"] == 1380
        assert "UP" in link["flags"]
        assert addresses(link) == {"10.77.0.2/24", "fd77::2/64"}


def test_the_kernel_chooses_a_name_when_none_is_given(inside: Namespace) -> None:
    with Tun.create(None, 1400, [V4]) as first, Tun.create(None, 1400, []) as second:
        assert {first.name, second.name} <= links(inside).keys()
        assert first.name != second.name


def test_closing_removes_the_device(inside: Namespace) -> None:
    tun = Tun.create("vpn0", 1400, [V4, V6])
    tun.close()
    assert "vpn0" not in links(inside)
    assert tun.fileno() == -1
    tun.close()


def test_a_name_that_another_tunnel_has_is_refused_with_a_hint(inside: Namespace) -> None:
    assert inside
    with Tun.create("vpn0", 1400, [V4]), pytest.raises(RefusedError) as caught:
        Tun.create("vpn0", 1400, [V6])
    assert str(caught.value) == "vpn0: name is taken (try: another name, or: ip link show vpn0)"


@pytest.mark.parametrize("make", ["link add vpn0 type bridge", "tuntap add vpn0 mode tun"])
def test_a_device_of_others_is_never_taken_over(inside: Namespace, make: str) -> None:
    inside.run(["ip", *make.split()])
    before = links(inside)["vpn0"]
    with pytest.raises(RefusedError, match="vpn0: name is taken"):
        Tun.create("vpn0", 1400, [V4])
    assert links(inside)["vpn0"] == before


def test_nothing_is_left_when_the_second_half_fails(inside: Namespace) -> None:
    open_before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(RefusedError, match="vpn0: "):
        Tun.create("vpn0", 1400, [V4, V4])
    assert "vpn0" not in links(inside)
    assert len(list(Path("/proc/self/fd").iterdir())) == len(open_before)


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", ".", "..", "a:b", "tun%d", "a\0b", "ä" * 8])
def test_what_cannot_be_a_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="device name"):
        Tun.create(name, 1400, [])


@pytest.mark.parametrize(("mtu", "given"), [(67, []), (MAX_MTU + 1, []), (-1, []), (1279, [V6]), (67, [V4])], ids=str)
def test_an_mtu_out_of_range_is_a_usage_error(mtu: int, given: list[IPv4Interface | IPv6Interface]) -> None:
    with pytest.raises(UsageError, match="MTU"):
        Tun.create("vpn0", mtu, given)


@pytest.mark.parametrize(("mtu", "given"), [(68, [V4]), (1280, [V6]), (MAX_MTU, [V4, V6])], ids=str)
def test_the_edges_of_the_mtu_work(inside: Namespace, mtu: int, given: list[IPv4Interface | IPv6Interface]) -> None:
    with Tun.create("vpn0", mtu, given):
        assert links(inside)["vpn0"]["mtu"] == mtu
        assert addresses(links(inside)["vpn0"]) == {str(each) for each in given}


def test_without_the_capability_it_says_so(inside: Namespace) -> None:
    program = (
        "from qosctl.bpf.errors import NoPermissionError\n"
        "from qosctl.dtls.transport.tun import Tun\n"
        "try:\n    Tun.create('vpn0', 1400, [])\n"
        "except NoPermissionError as error:\n    print(error)\n"
    )
    python = [sys.executable, "-c", program]
    said = inside.run(["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *python]).stdout
    assert "CAP_NET_ADMIN" in said


def until(tun: Tun, wanted: bytes) -> bytes:
    """Read packets until one holds `wanted`; the kernel sends some of its own (router solicitations)."""
    while True:
        assert select.select([tun], [], [], 5)[0], "nothing came"
        for packet in tun.read():
            if wanted in packet:
                return packet


@pytest.mark.parametrize(
    ("family", "target", "level", "option"),
    [
        (socket.AF_INET, "10.77.0.9", socket.IPPROTO_IP, socket.IP_TOS),
        (socket.AF_INET6, "fd77::9", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
def test_inner_packets_come_out_with_their_class(
    inside: Namespace, family: socket.AddressFamily, target: str, level: int, option: int
) -> None:
    assert inside
    with Tun.create("vpn0", 1400, [V4, V6]) as tun, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(level, option, EF.value << 2)
        sender.sendto(b"hello from inside", (target, 9))
        packet = until(tun, b"hello from inside")
        assert packet[0] >> 4 == (4 if family == socket.AF_INET else 6)
        assert dscp_of(packet) is EF


def test_packets_come_in_order_and_no_more_than_asked(inside: Namespace) -> None:
    inside.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])  # nor does the kernel send of its own accord
    with Tun.create("vpn0", 1400, [V4]) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for n in range(200):
            sender.sendto(b"number" + n.to_bytes(2) + bytes(1300), ("10.77.0.9", 9))
        rounds = []
        while packets := tun.read(limit=64):
            rounds.append(packets)
        numbers = [packet[34:36] for packets in rounds for packet in packets if packet[28:34] == b"number"]
        assert numbers == [n.to_bytes(2) for n in range(200)]
        assert max(map(len, rounds)) == 64
        assert tun.read() == []


def test_a_packet_of_the_whole_mtu_fits(inside: Namespace) -> None:
    assert inside
    with Tun.create("vpn0", 1400, [V4]) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x" * 1372, ("10.77.0.9", 9))
        assert len(until(tun, b"x" * 1372)) == 1400


def test_a_packet_of_an_mtu_that_was_raised_since_comes_whole(inside: Namespace) -> None:
    with Tun.create("vpn0", 1400, [V4]) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        inside.run(["ip", "link", "set", "vpn0", "mtu", str(MAX_MTU)])
        sender.sendto(b"x" * (MAX_MTU - 28), ("10.77.0.9", 9))
        assert len(until(tun, b"x" * 5000)) == MAX_MTU


def ipv4_udp(source: str, target: str, port: int, payload: bytes) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target)
    )
    total = sum(struct.unpack(">10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0)  # checksum 0: none (RFC 768)
    return header[:10] + struct.pack(">H", total ^ 0xFFFF) + header[12:] + udp + payload


def test_a_packet_written_arrives(inside: Namespace) -> None:
    assert inside
    with Tun.create("vpn0", 1400, [V4]) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.77.0.2", 0))
        receiver.settimeout(5)
        packet = ipv4_udp("10.77.0.9", "10.77.0.2", receiver.getsockname()[1], b"from afar")
        for form in (packet, memoryview(b"\0" + packet)[1:]):
            assert tun.write(form)
            assert receiver.recvfrom(100) == (b"from afar", ("10.77.0.9", 4000))


@pytest.mark.parametrize("packet", [b"", b"\0", b"\x00" * 40, b"\xf0" * 100], ids=["empty", "byte", "zeros", "version"])
def test_what_is_no_packet_is_counted_and_not_raised(inside: Namespace, packet: bytes) -> None:
    assert inside
    with Tun.create("vpn0", 1400, [V4]) as tun:
        assert not tun.write(packet)
        assert tun.write_lost == 1


def test_writing_to_a_device_that_is_down_is_counted(inside: Namespace) -> None:
    with Tun.create("vpn0", 1400, [V4]) as tun:
        inside.run(["ip", "link", "set", "vpn0", "down"])
        assert not tun.write(ipv4_udp("10.77.0.9", "10.77.0.2", 9, b"x"))
        assert tun.write_lost == 1


def test_a_device_removed_by_others_is_a_clear_error(inside: Namespace) -> None:
    with Tun.create("vpn0", 1400, [V4]) as tun:
        inside.run(["ip", "link", "del", "vpn0"])
        with pytest.raises(NotAttachedError, match="vpn0: the device is gone"):
            tun.read()
        with pytest.raises(NotAttachedError, match="vpn0: the device is gone"):
            tun.write(ipv4_udp("10.77.0.9", "10.77.0.2", 9, b"x"))


def test_other_addresses_leave_the_operators_mtu_alone(inside: Namespace) -> None:
    with Tun.create("vpn0", 1380, [V4, V6]) as tun:
        inside.run(["ip", "link", "set", "vpn0", "mtu", "1300"])
        for again in ([V4, V6], [ip_interface("10.77.0.3/24"), V6]):
            tun.readdress(again)
            tun.fit(1380)
            assert links(inside)["vpn0"]["mtu"] == 1300
        assert addresses(links(inside)["vpn0"]) == {"10.77.0.3/24", "fd77::2/64"}


def test_ipv6_comes_back_to_a_device_that_was_fitted_to_a_small_path(inside: Namespace) -> None:
    with Tun.create("vpn0", 1380, [V4, V6]) as tun:
        tun.readdress([V4])
        tun.fit(1000)
        assert links(inside)["vpn0"]["mtu"] == 1000
        tun.readdress([V4, V6])
        assert addresses(links(inside)["vpn0"]) == {"10.77.0.2/24", "fd77::2/64"}
        tun.fit(1380)
        assert links(inside)["vpn0"]["mtu"] == 1380


def test_somebody_else_assigns_addresses_to_a_device_that_takes_them(inside: Namespace) -> None:
    with Tun.create("vpn0", 1380, [V4], assign=False) as tun:
        tun.fit(1000)
        tun.readdress([V4, V6])
        inside.run(["ip", "address", "add", "fd77::2/64", "dev", "vpn0"])
        assert addresses(links(inside)["vpn0"]) == {"fd77::2/64"}


def test_addresses_that_others_took_or_gave_are_no_error(inside: Namespace) -> None:
    with Tun.create("vpn0", 1380, [V4, V6]) as tun:
        inside.run(["ip", "link", "set", "vpn0", "down"])  # which takes IPv6 off it
        inside.run(["ip", "link", "set", "vpn0", "up"])
        inside.run(["ip", "address", "add", "10.78.0.3/24", "dev", "vpn0"])
        tun.readdress([ip_interface("10.78.0.3/24")])
        assert addresses(links(inside)["vpn0"]) == {"10.78.0.3/24"}


@pytest.mark.parametrize("again", ["10.77.0.3/24", "10.77.0.2/16", "10.77.0.2/32", "10.77.0.3/32", "10.78.0.2/24"])
@pytest.mark.parametrize("promote", ["0", "1"])
def test_routes_outlive_another_address(inside: Namespace, again: str, promote: str) -> None:
    with Tun.create("vpn0", 1380, [V4]) as tun:
        inside.sysctl("net.ipv4.conf.vpn0.promote_secondaries", promote)
        inside.run(["ip", "route", "add", "10.99.0.0/16", "dev", "vpn0"])
        for _ in range(2):
            tun.readdress([ip_interface(again)])
            assert addresses(links(inside)["vpn0"]) == {again}
            tun.readdress([V4])
            assert addresses(links(inside)["vpn0"]) == {str(V4)}
        tun.readdress([ip_interface(again)])
        (route,) = json.loads(inside.run(["ip", "-json", "route", "get", "10.99.0.1"]).stdout)
        assert (route["dev"], route["prefsrc"]) == ("vpn0", again.partition("/")[0])
