"""Send UDP datagrams whose DSCP changes from one to the next, for the tunnel part of the bench.

    flood ADDRESS PORT SECONDS SIZE PPS TOS[,TOS...]     PPS 0 is as many as the device takes; prints JSON

One connected socket per class: a control message for each datagram would cost more than the datagram.
Standard library only: it is started by file name inside a namespace.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import time

_TICK_SECONDS = 0.0005
_BURST = 64  # between two looks at the clock


def flood(sockets: list[socket.socket], payload: bytes, seconds: float, pps: float) -> tuple[int, float]:
    """Return how many datagrams were sent, and in how many seconds."""
    senders = itertools.cycle([sock.send for sock in sockets])
    start = now = time.monotonic()
    sent = 0
    while now < start + seconds:
        due = min(int((now - start) * pps) + 1 - sent, _BURST) if pps else _BURST
        for send in itertools.islice(senders, max(0, due)):
            send(payload)  # blocks where the socket's buffer is full, which paces us by the device
        sent += max(0, due)
        if pps and due < _BURST:
            time.sleep(_TICK_SECONDS)
        now = time.monotonic()
    return sent, now - start


def _socket(address: str, port: int, tos: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    sock.connect((address, port))
    return sock


def main() -> None:
    address, port, seconds, size, pps, classes = sys.argv[1:]
    sockets = [_socket(address, int(port), int(tos)) for tos in classes.split(",")]
    sent, took = flood(sockets, bytes(int(size)), float(seconds), float(pps))
    print(json.dumps({"packets": sent, "seconds": took}))


if __name__ == "__main__":
    main()
