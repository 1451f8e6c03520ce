"""The kernel's WireGuard, followed: read from the wire, with everything real. In the guest of tests/kernels alone."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.devices.attach import attach, detach_all
from qosctl.supervisor.devices.carriers import Carrier, carriers
from qosctl.supervisor.devices.follow import follow, following, unfollow
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import status

from tests.lab import Capture, Namespace
from tests.lab.waiting import until
from tests.lab.wire import ADDRESSES, FAR, NEAR, Stand, stand
from tests.lab.wireguard import (
    DATA,
    INITIATION,
    KEEPALIVE_BYTES,
    Message,
    Tunnel,
    configuring,
    data,
    messages,
    public,
    tunnel,
)
from tests.supervisor.supervise.running import Supervised

HANDSHAKE_DSCP = 34  # WireGuard's own choice: AF41
MANY = int(os.environ.get("QOSCTL_MANY", "50000"))
AF41, CS1 = Dscp.parse("AF41"), Dscp.parse("CS1")


@pytest.fixture(name="stand")
def stand_fixture() -> Iterator[Stand]:
    with stand() as built:
        yield built


@pytest.fixture(name="wire")
def wire_fixture(stand: Stand) -> Iterator[Capture]:
    with Capture(stand.watcher, FAR) as capture:
        yield capture


def switch_on(*followed: str) -> None:
    attach([NEAR])
    follow(list(followed))
    set_passtos(True)


def sent(wire: Capture, tunnel: Tunnel, count: int) -> list[Message]:
    """Wait for so many data messages of the sender's and return them."""
    return sent_from(wire, tunnel.ports[0], count)


def sent_from(wire: Capture, port: int, count: int) -> list[Message]:
    return data(messages(wire.wait_for(lambda frames: len(data(messages(frames, port))) >= count, 60), port))


def outcomes() -> dict[Outcome, int]:
    (device,) = status().devices
    return {outcome: count for outcome, count in device.counters.outcomes.items() if count}


@pytest.mark.parametrize("outer", [4, 6])
def test_every_byte_inside_and_what_wireguard_itself_makes_of_ecn(stand: Stand, wire: Capture, outer: int) -> None:
    """All 256 bytes, IPv4 and IPv6 inside. ECN and handshakes are as they are without us."""
    everything = list(range(256))
    with tunnel(stand, outer=outer) as made:
        attach([NEAR])
        set_passtos(True)
        made.send([0])  # the handshake: no more than 128 packets wait for it
        sent(wire, made, 1)
        wire.clear()
        for version in (4, 6):
            made.send(everything, version)
        without = sent(wire, made, 512)
        assert {message.dscp for message in without} == {0}
        follow([made.name])
        wire.clear()
        for version in (4, 6):
            made.send(everything, version)
        marked = sent(wire, made, 512)
        assert [message.dscp for message in marked] == [byte >> 2 for byte in everything] * 2
        assert [message.ecn for message in marked] == [message.ecn for message in without]
        found = outcomes()
        assert found[Outcome.STAMPED] + found[Outcome.UNCHANGED] == 512
        assert Outcome.NO_MARK not in found
        made.set(listen_port=made.ports[0])
        unfollow([made.name])
        wire.clear()
        made.send(everything)
        assert {message.dscp for message in sent(wire, made, 256)} == {0}


def test_handshakes_and_keepalives_are_left_alone(stand: Stand, wire: Capture) -> None:
    with tunnel(stand) as made:
        switch_on(made.name)
        for _ in range(5):  # each of them a handshake
            stand.watcher.ip(f"link set {made.name} down", f"link set {made.name} up")
            made.set(private_key=new_key(made))
            made.send([EF.value << 2])
            time.sleep(0.2)
        peer = {"public_key": public(made.keys[1]), "persistent_keepalive": 1, "update_only": True}
        made.set(peer=peer)
        found = wire.wait_for(lambda frames: keepalives(messages(frames, made.ports[0])) >= 2, 20)
        said = messages(found, made.ports[0])
        assert {message.dscp for message in said if message.kind == INITIATION} == {HANDSHAKE_DSCP}
        assert keepalives(said) >= 2
        assert {message.dscp for message in said if message.kind == DATA and message.length == KEEPALIVE_BYTES} == {0}
        assert {message.dscp for message in data(said)} == {EF.value}
        assert outcomes()[Outcome.NOT_DATA] >= 3


def new_key(made: Tunnel) -> str:
    """The same key, which WireGuard takes for a new one: it forgets its sessions."""
    return base64.b64encode(made.keys[0].private_bytes_raw()).decode()


def keepalives(said: list[Message]) -> int:
    return sum(message.kind == DATA and message.length == KEEPALIVE_BYTES for message in said)


def test_batches_fragments_and_pings(stand: Stand, wire: Capture) -> None:
    """GSO inside: one sk_buff goes in, many packets come out. Then packets in pieces, and no UDP nor TCP at all."""
    with tunnel(stand) as made:
        switch_on(made.name)
        carry_tcp(stand, made, megabytes=4)
        found = sent(wire, made, 2000)
        assert {message.dscp for message in found} == {EF.value}
        wire.clear()
        stand.sender.run(["ping", "-c", "3", "-i", "0.2", "-s", "4000", "-Q", "0x28", made.address(4)])
        pieces = sent(wire, made, 9)
        assert [message.dscp for message in pieces] == [0x28 >> 2] * 9
        wire.clear()
        stand.sender.run(["ping", "-c", "3", "-i", "0.2", "-Q", "0xb8", made.address(6)])
        assert [message.dscp for message in sent(wire, made, 3)] == [EF.value] * 3
        assert Outcome.NO_MARK not in outcomes()


def carry_tcp(stand: Stand, made: Tunnel, megabytes: int) -> None:
    with stand.watcher.entered():
        listener = socket.create_server((made.address(4), 7000))
    read = threading.Thread(target=drain, args=(listener,))
    read.start()
    with stand.sender.entered(), socket.socket() as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF.value << 2)
        client.connect((made.address(4), 7000))
        client.sendall(bytes(megabytes << 20))
    read.join()
    listener.close()


def drain(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        while peer.recv(1 << 20):
            pass


def test_a_device_beside_that_is_not_followed_is_never_marked(stand: Stand) -> None:
    """Many packets, each a flow of its own: of 6-bit checks one in 64 would pass. Counted by the receiver's firewall."""
    with tunnel(stand, 0) as followed, tunnel(stand, 1) as other:
        switch_on(followed.name)
        count_marked(stand, followed, other)
        for made in (followed, other):
            made.send([EF.value << 2])
        began = time.monotonic()
        flood(stand, (followed, other), MANY // 20)
        flood(stand, (other,), MANY)
        seen = counted(stand)
        print(f"{MANY:,} packets in {time.monotonic() - began:.0f} s: {seen}")
        assert seen[f"{other.name} all"] >= MANY * 0.9, "the others were dropped on the way in"
        assert seen[f"{other.name} marked"] == 0
        assert seen[f"{followed.name} marked"] == seen[f"{followed.name} all"]


def count_marked(stand: Stand, *tunnels: Tunnel) -> None:
    """Data messages from each port, and those of them with a DSCP."""
    rules = ["table inet count { chain in { type filter hook prerouting priority -300;"]
    for made in tunnels:
        messages_of = f"udp sport {made.ports[0]} udp length > {KEEPALIVE_BYTES + 8} @th,64,32 0x04000000"
        rules.append(f'{messages_of} counter comment "{made.name} all"')
        rules.append(f'{messages_of} ip dscp != cs0 counter comment "{made.name} marked"')
    stand.watcher.run(["nft", "-f", "-"], stdin="\n".join([*rules, "}", "}", ""]))


def counted(stand: Stand) -> dict[str, int]:
    listed = json.loads(stand.watcher.run(["nft", "-j", "list", "table", "inet", "count"]).stdout)["nftables"]
    rules = [each["rule"] for each in listed if "rule" in each]
    return {
        rule["comment"]: counter["counter"]["packets"] for rule in rules for counter in rule["expr"] if "counter" in counter
    }


def flood(stand: Stand, tunnels: tuple[Tunnel, ...], count: int) -> None:
    """Datagrams marked EF in turn through each tunnel, from and to ever new ports."""
    with stand.sender.entered(), ExitStack() as stack:
        senders = []
        for made in tunnels:
            for _ in range(16):
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF.value << 2)
                senders.append((sender, made.address(4)))
        turns = itertools.cycle(senders)
        for n in range(count * len(tunnels)):
            sender, address = next(turns)
            sender.sendto(b"x" * 20, (address, 1024 + n // len(senders) % 60000))


def test_another_port_and_another_peer_s_address_count_at_once(stand: Stand, wire: Capture) -> None:
    """wg set listen-port, a device that goes down and up with a port by chance, and a peer that roams to IPv6."""
    with tunnel(stand) as made:
        switch_on(made.name)
        made.send([EF.value << 2])
        assert [message.dscp for message in sent(wire, made, 1)] == [EF.value]
        for port in (40001, 40002, 0):
            wire.clear()
            made.set(listen_port=port)
            stand.sender.ip(f"link set {made.name} down", f"link set {made.name} up")
            made.send([EF.value << 2, AF41.value << 2])
            now = port_of(stand, made)
            assert [message.dscp for message in sent_from(wire, now, 2)] == [EF.value, AF41.value]
        wire.clear()
        roamed = {"public_key": public(made.keys[1]), "endpoint_addr": ADDRESSES[6][1], "endpoint_port": made.ports[1]}
        made.set(peer=roamed | {"update_only": True})
        made.send([EF.value << 2] * 3)
        frames = wire.wait_for(lambda frames: len(data(messages(frames, now))) >= 3, 30)
        assert {(message.dscp, frame.family) for frame in frames for message in data(messages([frame], now))} == {
            (EF.value, 6)
        }


def port_of(stand: Stand, made: Tunnel) -> int:
    with configuring(stand.sender) as wg:
        (device,) = wg.info(made.name)
    port: int = device.get("WGDEVICE_A_LISTEN_PORT")
    return port


def test_who_takes_the_port_of_a_followed_device_takes_no_marks(stand: Stand) -> None:
    """The followed one is silent since it has lost its port, so nobody has said yet that it did."""
    with tunnel(stand, 0) as followed, tunnel(stand, 1) as other:
        switch_on(followed.name)
        followed.send([EF.value << 2] * 10)
        followed.set(listen_port=40000)
        other.set(listen_port=followed.ports[0])
        count_marked(stand, followed)
        flood(stand, (other,), MANY // 2)
        assert counted(stand)[f"{followed.name} all"] >= MANY // 2 * 0.9
        assert counted(stand)[f"{followed.name} marked"] == 0


def test_several_peers_each_packet_has_its_own_class(stand: Stand, wire: Capture) -> None:
    with tunnel(stand, 0) as first, tunnel(stand, 1) as second:
        second_peer = {
            "public_key": public(second.keys[1]), "endpoint_addr": ADDRESSES[6][1], "endpoint_port": second.ports[1],
            "allowed_ips": [f"{second.address(4)}/32"],
        }  # fmt: skip
        first.set(peer=second_peer)
        with configuring(stand.watcher) as wg:
            wg.set(second.name, peer={"public_key": public(first.keys[0]), "allowed_ips": ["0.0.0.0/0"]})
        stand.sender.ip(f"link set {second.name} down", f"route add {second.address(4)} dev {first.name}")
        switch_on(first.name)
        for _ in range(20):
            first.send([EF.value << 2])
            second.send([AF41.value << 2])
        frames = wire.wait_for(lambda frames: len(data(messages(frames, first.ports[0]))) >= 40, 30)
        found = {(m.dscp, frame.family) for frame in frames for m in data(messages([frame], first.ports[0]))}
        assert found == {(EF.value, 4), (AF41.value, 6)}


def test_a_tunnel_in_a_tunnel(stand: Stand, wire: Capture) -> None:
    """The inner one is followed and the outer one is not: its packets are somebody else's, though the hash is ours."""
    with tunnel(stand, 0) as outer, tunnel(stand, 1) as inner:
        endpoint = {"public_key": public(inner.keys[1]), "endpoint_addr": outer.address(4), "endpoint_port": inner.ports[1]}
        inner.set(peer=endpoint | {"update_only": True})
        switch_on(inner.name)
        inner.send([EF.value << 2] * 200, port=9)
        assert {message.dscp for message in sent(wire, outer, 200)} == {0}
        attach([outer.name])
        wire.clear()
        inner.send([EF.value << 2] * 10)
        assert {message.dscp for message in sent(wire, outer, 10)} == {0}
        follow([outer.name])
        wire.clear()
        inner.send([EF.value << 2] * 10)
        assert {message.dscp for message in sent(wire, outer, 10)} == {EF.value}, "marked by the first, read by the second"
        detach_all()
        assert not folder().exists()


def test_a_device_of_another_namespace(stand: Stand, wire: Capture) -> None:
    """Made elsewhere and moved here: its packets leave where it was made. Made here and moved away: it is not here."""
    with tunnel(stand, 0) as made, Namespace("container") as container:
        switch_on("wg*")
        made.send([EF.value << 2])
        assert [message.dscp for message in sent(wire, made, 1)] == [EF.value]
        container.ip("link add wg7 type wireguard", f"link set wg7 netns {stand.sender.name}")
        follow(["wg*"])
        stand.sender.ip("address add 10.78.0.1/24 dev wg7", "link set wg7 up")
        with stand.sender.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(OSError):
            sender.sendto(b"x", ("10.78.0.2", 9))  # it has no peer, and says so; but its program has seen the packet
        assert known()["wg7"].elsewhere
        stand.sender.ip(f"link set {made.name} netns {container.name}")
        follow(["wg*"])
        assert list(known()) == ["wg7"]
        assert following().running


def is_known(name: str) -> bool:
    return name in known()


def known() -> dict[str, Carrier]:
    return {carrier.name: carrier for carrier in carriers()}


def test_the_supervisor_follows_devices_that_come_and_forgets_those_that_go(
    stand: Stand, wire: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervised.wait, "__defaults__", (180.0,))  # under emulation the compiler takes its time
    with ExitStack() as there:
        made = there.enter_context(tunnel(stand))
        with Supervised(stand.sender, tmp_path, f'interfaces = ["{NEAR}"]\npasstos = true\nfollow = ["wg*"]\n'):
            for _ in range(2):
                until(partial(is_known, made.name), 300)
                wire.clear()
                made.send([EF.value << 2])
                assert [message.dscp for message in sent(wire, made, 1)] == [EF.value]
                there.close()
                until(lambda: not list((folder() / "follow/devices").iterdir()), 300)
                made = there.enter_context(tunnel(stand))


def test_what_others_send_is_marked_through_the_tunnel_and_left_alone_past_it(stand: Stand) -> None:
    """Of a container behind us: what we forward into the tunnel, and what its own WireGuard sends, from the same port."""
    with tunnel(stand, 0) as followed, Namespace("container") as container:
        switch_on(followed.name)
        followed.send([0])
        stand.sender.sysctl("net.ipv4.ip_forward", "1")
        stand.sender.ip(
            f"link add toward type veth peer name eth0 netns {container.name}", "address add 10.99.0.1/24 dev toward",
            "link set toward up",
        )  # fmt: skip
        container.ip("address add 10.99.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.99.0.1")
        stand.watcher.ip(f"route add 10.99.0.0/24 via {ADDRESSES[4][0]}")
        count_marked(stand, followed)
        with container.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF.value << 2)
            for n in range(100):
                sender.sendto(b"x" * 20, (followed.address(4), 1024 + n))
        until(lambda: counted(stand)[f"{followed.name} all"] == 100)
        assert counted(stand)[f"{followed.name} marked"] == 100
        with container.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("10.99.0.2", followed.ports[0]))
            for n, message in enumerate(wireguard_messages(MANY // 5)):
                sender.sendto(message, (ADDRESSES[4][1], 1024 + n % 60000))
        assert counted(stand) == {f"{followed.name} all": 100 + MANY // 5, f"{followed.name} marked": 100}


def wireguard_messages(count: int) -> Iterator[bytes]:
    return (b"\4\0\0\0" + n.to_bytes(12, "little") + bytes(48) for n in range(count))
