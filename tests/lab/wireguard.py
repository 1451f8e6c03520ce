"""WireGuard devices of this kernel, in pairs, over the wire of tests/lab/wire.py.

inside   10.77.N.1, fd77:N::1 ---- 10.77.N.2, fd77:N::2
outside  the wire's addresses of one family, each end at its own UDP port
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyroute2 import WireGuard

from tests.lab import Namespace
from tests.lab.capture import UDP, Frame
from tests.lab.wire import ADDRESSES, Stand

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
KEEPALIVE_BYTES = 32
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_TRAFFIC_CLASS = {4: (socket.IPPROTO_IP, socket.IP_TOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}


@dataclass(frozen=True)
class Message:
    """One of WireGuard's, as it was on the wire."""

    kind: int
    counter: int  # of data; the inner packets' order
    length: int
    dscp: int
    ecn: int
    source_port: int


@dataclass(frozen=True)
class Tunnel:
    """One device at each end, up. `number` tells tunnels apart: names, addresses and ports have it."""

    stand: Stand
    number: int
    outer: int
    keys: tuple[X25519PrivateKey, X25519PrivateKey]

    @property
    def name(self) -> str:
        """The sender's device."""
        return f"wg{self.number}"

    @property
    def ports(self) -> tuple[int, int]:
        """The UDP ports of the sender and the watcher."""
        return 51820 + self.number, 52820 + self.number

    def address(self, version: int, end: int = 1) -> str:
        """An address inside: by default the watcher's."""
        return f"10.77.{self.number}.{end + 1}" if version == 4 else f"fd77:{self.number}::{end + 1}"

    def set(self, **settings: Any) -> None:
        """Change the sender's device, as wg(8) does."""
        with configuring(self.stand.sender) as wg:
            wg.set(self.name, **settings)

    def send(self, traffic_classes: Sequence[int], version: int = 4, *, size: int = 100, port: int = 9) -> None:
        """Send a datagram with each of these bytes, one after the other."""
        with self.stand.sender.entered(), socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sender:
            for byte in traffic_classes:
                control = [(*_TRAFFIC_CLASS[version], struct.pack("=i", byte))]
                sender.sendmsg([bytes(size)], control, 0, (self.address(version), port))


@contextmanager
def tunnel(stand: Stand, number: int = 0, outer: int = 4) -> Iterator[Tunnel]:
    """Make both ends, over IPv4 or IPv6. The first packet that is sent makes the handshake."""
    made = Tunnel(stand, number, outer, (X25519PrivateKey.generate(), X25519PrivateKey.generate()))
    ends = (stand.sender, stand.watcher)
    try:
        for end, namespace in enumerate(ends):
            namespace.ip(f"link add {made.name} type wireguard")
            _configure(made, namespace, end)
            namespace.ip(
                f"address add {made.address(4, end)}/24 dev {made.name}",
                f"address add {made.address(6, end)}/64 dev {made.name} nodad",
                f"link set {made.name} addrgenmode none up",
            )
        yield made
    finally:
        for namespace in ends:
            namespace.ip(f"link delete {made.name}", check=False)


def messages(frames: Sequence[Frame], source_port: int) -> list[Message]:
    """What WireGuard has sent from a port."""
    return [
        Message(
            frame.payload[0], int.from_bytes(frame.payload[8:16], "little"), len(frame.payload), frame.dscp, frame.ecn,
            frame.source_port,
        )
        for frame in frames
        if frame.protocol == UDP and frame.source_port == source_port and len(frame.payload) >= 16
    ]  # fmt: skip


def data(found: Sequence[Message]) -> list[Message]:
    """Those that hold a packet, as they went in."""
    return sorted(
        (message for message in found if message.kind == DATA and message.length > KEEPALIVE_BYTES),
        key=lambda message: message.counter,
    )


@contextmanager
def configuring(namespace: Namespace) -> Iterator[WireGuard]:
    """Open generic netlink in a namespace."""
    with namespace.entered():
        wg = WireGuard()
    with contextlib.closing(wg):
        yield wg


def public(key: X25519PrivateKey) -> str:
    """A public key as WireGuard writes it."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _configure(made: Tunnel, namespace: Namespace, end: int) -> None:
    peer = {
        "public_key": public(made.keys[1 - end]),
        "endpoint_addr": ADDRESSES[made.outer][1 - end],
        "endpoint_port": made.ports[1 - end],
        "allowed_ips": ["0.0.0.0/0", "::/0"],
    }
    own = base64.b64encode(made.keys[end].private_bytes_raw()).decode()
    with configuring(namespace) as wg:
        wg.set(made.name, private_key=own, listen_port=made.ports[end], peer=peer)
