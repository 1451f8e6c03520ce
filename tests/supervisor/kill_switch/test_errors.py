"""An ICMP error quotes the packet that could not be delivered: of one that came out of the tunnel, none leaves outside.

Where the tunnel's address is not on its device, an `unreachable` route counts for it. The kernel then answers the sender,
wherever he is: for IPv6 always, for IPv4 where it forwards.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.vpn.host_routes import Network
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.plan import inside, plan
from qosctl.supervisor.kill_switch.switch import KillSwitch

from tests.lab import Capture, Frame, Namespace
from tests.lab.packets import ipv4, ipv6, udp

TUNNEL, DEVICE = "vpn0", "up0"
GATEWAY = ip_address("192.0.2.1")
V4, V6 = ip_interface("192.168.77.5/24"), ip_interface("fd77::5/128")
OWN = {4: str(V4.ip), 6: str(V6.ip)}
STRANGER = {4: "198.51.100.7", 6: "fd55::7"}
"""Who writes to the tunnel's address from behind the server, although the way to him is not through the tunnel."""
OUTER = {4: "192.0.2.77", 6: "fd91::77"}
ROUTER = {4: "192.0.2.254", 6: "fd91::254"}
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

    def give_address(self, version: int) -> None:
        """Have the script set the tunnel's address."""
        self.namespace.run(["ip", "addr", "add", OWN[version], "dev", TUNNEL, *NO_DAD[version]])

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
        for version, length in ((4, 24), (6, 64)):
            router = ROUTER[version]
            namespace.run(["ip", "addr", "add", f"{OUTER[version]}/{length}", "dev", DEVICE, *NO_DAD[version]])
            namespace.run(["ip", "neigh", "add", router, "lladdr", "02:00:00:00:00:01", "dev", DEVICE])
            namespace.run(["ip", f"-{version}", "route", "add", "default", "via", router])
        namespace.run(["ip", "neigh", "add", str(GATEWAY), "lladdr", "02:00:00:00:00:01", "dev", DEVICE])
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


@pytest.mark.audit
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("network", [SOME, ALL_BUT], ids=["some", "all_but"])
def test_of_a_port_that_nobody_listens_at_nobody_outside_is_told(machine: Machine, version: int, network: Network) -> None:
    """Finding 2: the same of an address that is there."""
    machine.hold(network, {4, 6})
    machine.give_address(version)
    with Capture(machine.namespace, DEVICE, lambda frame: frame.outgoing) as capture:
        machine.receive(version, OWN[version], INNER)
        assert _told(capture) == []
    if network is SOME:  # the error goes the way that its reason came
        assert any(INNER in packet for packet in machine.tun.read())


@pytest.mark.audit
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "gone"])
def test_what_is_bound_to_the_tunnels_address_leaves_by_the_tunnel_or_not_at_all(
    machine: Machine, version: int, is_there: bool
) -> None:
    """Finding 2: over IPv6 a socket goes on sending from an address that has gone."""
    machine.hold(SOME, {4, 6})
    machine.give_address(version)
    with (
        socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sock,
        Capture(machine.namespace, DEVICE, lambda frame: frame.outgoing) as capture,
    ):
        sock.bind((OWN[version], 0))
        if is_there:
            sock.sendto(INNER, (STRANGER[version], PORT))
            assert any(INNER in packet for packet in machine.tun.read())
        else:
            machine.tun.close()
            with pytest.raises(OSError, match=r"unreachable|Invalid argument"):
                sock.sendto(INNER, (STRANGER[version], PORT))
        assert _told(capture) == []
        # All others' packets have the way that they had.
        for to in (STRANGER[version], str(GATEWAY)):
            with socket.socket(FAMILY[ip_address(to).version], socket.SOCK_DGRAM) as other:
                other.sendto(INNER, (to, PORT))
        left = capture.wait_for(lambda frames: sum(frame.payload == INNER for frame in frames) == 2)
        assert [frame.source for frame in left if frame.payload == INNER] == [OUTER[version], OUTER[4]]


@pytest.mark.parametrize("version", [4, 6])
def test_whoever_asks_from_the_machines_own_lan_is_answered_there(machine: Machine, version: int) -> None:
    machine.hold(SOME, {4, 6})
    machine.give_address(version)
    with (
        socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sock,
        Capture(machine.namespace, DEVICE, lambda frame: frame.outgoing) as capture,
    ):
        sock.bind((OWN[version], 0))
        sock.sendto(INNER, (ROUTER[version], PORT))
        assert [frame.source for frame in _told(capture)] == [OWN[version]]


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_that_the_machine_has_elsewhere_too_is_not_taken_for_the_tunnels(
    machine: Machine, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    same = tuple(ip_interface(address) for address in OUTER.values())
    switch = KillSwitch("vpn.example", pytest.fail)
    switch.hold(HostConfig(TUNNEL, GATEWAY, 1400, same, SOME))
    with (
        socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sock,
        Capture(machine.namespace, DEVICE, lambda frame: frame.outgoing) as capture,
    ):
        sock.connect((STRANGER[version], PORT))
        sock.send(INNER)
        assert [frame.source for frame in _told(capture)] == [OUTER[version]]
    switch.lift()


@pytest.mark.parametrize("strictness", ["0", "1", "2"])
def test_what_a_router_behind_the_server_says_arrives_however_sources_are_checked(
    machine: Machine, strictness: str
) -> None:
    """Path MTU discovery inside the tunnel lives from it, and the router's address need not be one of the server's."""
    machine.namespace.sysctl(f"net.ipv4.conf.{TUNNEL}.rp_filter", strictness)
    machine.hold(SOME, {4, 6})
    machine.give_address(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((OWN[4], PORT))
        sock.settimeout(5)
        machine.receive(4, OWN[4], INNER)
        assert sock.recv(64) == INNER


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_for_an_address_that_is_there_arrives(machine: Machine, version: int) -> None:
    machine.hold(SOME, {4, 6})
    machine.give_address(version)
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sock:
        sock.bind((OWN[version], PORT))
        sock.settimeout(5)
        machine.receive(version, OWN[version], INNER)
        assert sock.recv(64) == INNER
