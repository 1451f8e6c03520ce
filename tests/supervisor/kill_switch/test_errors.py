"""An ICMP error quotes the packet that could not be delivered: of one that came out of the tunnel, none leaves outside.

Where the tunnel's address is not on its device, an `unreachable` route counts for it. The kernel then answers the sender,
wherever he is: for IPv6 always, for IPv4 where it forwards.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.vpn.host_routes import Network
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.plan import inside, plan

from tests.lab import Capture, Frame, Namespace
from tests.lab.packets import ipv4, ipv6, udp

TUNNEL, DEVICE = "vpn0", "up0"
GATEWAY = ip_address("192.0.2.1")
V4, V6 = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
OWN = {4: str(V4.ip), 6: str(V6.ip)}
STRANGER = {4: "198.51.100.7", 6: "fd55::7"}
"""Who writes to the tunnel's address from behind the server, although the way to him is not through the tunnel."""
OUTER = {4: "192.0.2.77", 6: "fd91::77"}
SOME = Network(include=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/48")), splits=frozenset({4, 6}))
ALL_BUT = Network(exclude=(ip_network("198.51.100.0/24"), ip_network("fd55::/64")))
PORT = 4300
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NO_DAD: dict[int, list[str]] = {4: [], 6: ["nodad"]}
INNER = b"said inside"
LAST = b"the last one"


@dataclass(frozen=True)
class Machine:
    """A machine with default routes of its own, and a tunnel's device that is up and has no address."""

    namespace: Namespace
    tun: Tun

    def receive(self, version: int, destination: str, payload: bytes) -> None:
        """Have a datagram of STRANGER's come out of the tunnel."""
        datagram = udp(payload, source=PORT, destination=PORT)
        if version == 4:
            packet = ipv4(datagram, source=STRANGER[4], destination=destination)
        else:
            packet = ipv6(_with_checksum(datagram, destination), source=STRANGER[6], destination=destination)
        assert self.tun.write(packet)

    def hold(self, network: Network, carried: set[int]) -> None:
        """Hold what a session with the addresses OWN puts inside."""
        given = HostConfig(TUNNEL, GATEWAY, 1400, (V4, V6), network)
        assert kernel.enforce(0, plan(0, inside(given), carried, GATEWAY), socket.if_nametoindex(TUNNEL)) == []


def _with_checksum(datagram: bytes, destination: str) -> bytes:
    """Fill in UDP's checksum, without which IPv6 takes none (RFC 8200 section 8.1)."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, each) for each in (STRANGER[6], destination))
    summed = ends + len(datagram).to_bytes(4) + bytes([0, 0, 0, socket.IPPROTO_UDP]) + datagram
    total = sum(int.from_bytes(summed[at : at + 2].ljust(2, b"\0")) for at in range(0, len(summed), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return datagram[:6] + ((~total & 0xFFFF) or 0xFFFF).to_bytes(2) + datagram[8:]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Namespace("quiet") as namespace, namespace.entered():
        namespace.run(["ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "up1"])
        for device in (DEVICE, "up1"):
            namespace.run(["ip", "link", "set", device, "up"])
        for version, length, router in ((4, 24, "192.0.2.254"), (6, 64, "fd91::254")):
            namespace.run(["ip", "addr", "add", f"{OUTER[version]}/{length}", "dev", DEVICE, *NO_DAD[version]])
            namespace.run(["ip", "neigh", "add", router, "lladdr", "02:00:00:00:00:01", "dev", DEVICE])
            namespace.run(["ip", f"-{version}", "route", "add", "default", "via", router])
        with Tun.create(TUNNEL, 1400, (V4, V6), assign=False) as tun:
            yield Machine(namespace, tun)


def _told(capture: Capture) -> list[Frame]:
    """Return what has left until a packet that always does has left."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(LAST, (STRANGER[4], PORT))
    frames = capture.wait_for(lambda frames: any(frame.payload == LAST for frame in frames))
    assert any(frame.payload == LAST for frame in frames)
    return [frame for frame in frames if INNER in frame.payload]


@pytest.mark.audit
@pytest.mark.parametrize("forwards", ["0", "1"], ids=["host", "router"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("carried", [set(), {4, 6}], ids=["blocked", "carried"])
@pytest.mark.parametrize("network", [SOME, ALL_BUT], ids=["some", "all_but"])
def test_of_a_packet_for_an_address_that_is_not_there_nobody_outside_is_told(
    machine: Machine, version: int, forwards: str, carried: set[int], network: Network
) -> None:
    """Finding 2: a session's packets come as soon as it is there, its addresses when the script has set them."""
    machine.namespace.sysctl(f"net.ipv{version}.conf.all.forwarding", forwards)
    machine.hold(network, carried)
    with Capture(machine.namespace, DEVICE, lambda frame: frame.outgoing) as capture:
        machine.receive(version, OWN[version], INNER)
        assert _told(capture) == []


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_for_an_address_that_is_there_arrives(machine: Machine, version: int) -> None:
    machine.hold(SOME, {4, 6})
    machine.namespace.run(["ip", "addr", "add", OWN[version], "dev", TUNNEL, *NO_DAD[version]])
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sock:
        sock.bind((OWN[version], PORT))
        sock.settimeout(5)
        machine.receive(version, OWN[version], INNER)
        assert sock.recv(64) == INNER
