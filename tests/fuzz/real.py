"""Frames that a real kernel built, kept in real_frames.txt so that a seed always means the same packets.

They were caught on the loopback device; `python -m tests.fuzz.real` catches new ones and writes the file again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from qosctl.bpf.maps.flow_key import FlowKey

from tests.bpf.program.differential import PACKET_MAX
from tests.bpf.program.table import NUMBER
from tests.lab import Namespace, enter_sandbox
from tests.lab.packets import record

_FILE = Path(__file__).with_name("real_frames.txt")
_ETH_P_ALL, _OUTGOING = 3, 4
_UDP_SEGMENT = 103
_CLIENT, _SERVER = 40001, 40002
_QUIET_SECONDS = 0.2

FLOWS = (
    FlowKey(("127.0.0.1", _CLIENT), ("127.0.0.1", _SERVER)),
    FlowKey(("::1", _CLIENT), ("::1", _SERVER)),
)


def frames() -> list[bytes]:
    """Return the kept frames, each from its Ethernet header on."""
    return [bytes.fromhex(line) for line in _FILE.read_text(encoding="ascii").splitlines()]


def catch() -> list[bytes]:
    """Catch records sent by UDP over IPv4 and IPv6, singly, in a batch and in fragments, and a TCP handshake."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as capture:
        capture.settimeout(_QUIET_SECONDS)
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            _send(family, address)
        return list(_outgoing(capture))


def _send(family: socket.AddressFamily, address: str) -> None:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as receiver,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
        socket.create_server((address, 0), family=family) as listener,
    ):
        receiver.bind((address, _SERVER))
        sender.bind((address, _CLIENT))
        sender.connect((address, _SERVER))
        sender.send(record(NUMBER))
        sender.send(record(NUMBER, bytes(800)))
        one = record(NUMBER)
        cut = (socket.IPPROTO_UDP, _UDP_SEGMENT, len(one).to_bytes(2, "little"))
        sender.sendmsg([one + record(NUMBER + 1)], [cut])
        with contextlib.suppress(OSError):  # nobody listens there: an ICMP error is a frame too
            sender.connect((address, 9))
            sender.send(b"x")
            sender.send(b"x")
        socket.create_connection(listener.getsockname()[:2]).close()


def _outgoing(capture: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(TimeoutError):
        while True:
            data, address = capture.recvfrom(65536)
            if address[2] == _OUTGOING:
                yield data


def main() -> None:
    """Write the file."""
    enter_sandbox()
    with Namespace("real") as namespace, namespace.entered():
        caught = catch()
    _FILE.write_text("".join(f"{frame.hex()}\n" for frame in caught if len(frame) <= PACKET_MAX), encoding="ascii")


if __name__ == "__main__":
    main()
