"""The ends of a measured load, each a process of its own so that none disturbs another's clock.

    echo PORT SECONDS                                  return every datagram to its sender
    call ADDRESS PORT SECONDS SIZE INTERVAL TOS        send one every INTERVAL s, print round trips as JSON
    sink PORT SECONDS                                  count what arrives, print as JSON
    send ADDRESS PORT SECONDS SIZE MBIT TOS            send at a fixed rate, print as JSON
    burst ADDRESS PORT SECONDS SIZE COUNT PERIOD TOS   send COUNT at once every PERIOD s on average, print as JSON

Standard library only: it is started by file name inside a namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

_GRACE_SECONDS = 1.0  # for what is still on its way at the end
_RECEIVE_BYTES = 8 << 20
_PHASES_SECONDS = 0.02  # a call's interval
_GOLDEN = 0.618034  # its multiples, less whole ones, are spread evenly however many there are


def _socket_to(address: str, port: int, tos: int) -> socket.socket:
    if ipaddress.ip_address(address).version == 4:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    sock.connect((address, port))
    return sock


def _listening(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)  # takes IPv4 too
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    sock.bind(("::", port))
    sock.settimeout(0.2)
    print("ready", flush=True)
    return sock


def echo(port: str, seconds: str) -> None:
    sock = _listening(int(port))
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        try:
            data, sender = sock.recvfrom(2048)
            sock.sendto(data, sender)
        except TimeoutError:
            continue
        except OSError:  # an error report for an earlier answer
            continue


def call(address: str, port: str, *rest: str) -> None:
    seconds, size, interval, tos = rest
    sock = _socket_to(address, int(port), int(tos))
    sock.setblocking(False)
    count = max(1, round(float(seconds) / float(interval)))
    padding = bytes(int(size) - 12)
    start = time.monotonic()
    round_trips: dict[int, float] = {}
    sent = 0
    while True:
        now = time.monotonic()
        if sent < count and now >= start + sent * float(interval):
            with contextlib.suppress(OSError):  # not sent is not answered: it counts as lost
                sock.send(struct.pack("!Id", sent, now) + padding)
            sent += 1
            continue
        until = start + sent * float(interval) if sent < count else start + count * float(interval) + _GRACE_SECONDS
        if sent == count and (len(round_trips) == count or now >= until):
            break
        if not select.select([sock], [], [], max(0.0, until - now))[0]:
            continue
        try:
            data = sock.recv(2048)
        except OSError:
            continue
        number, then = struct.unpack("!Id", data[:12])
        round_trips.setdefault(number, (time.monotonic() - then) * 1000)
    print(json.dumps({"sent": sent, "round_trips_ms": list(round_trips.values())}))


def sink(port: str, seconds: str) -> None:
    sock = _listening(int(port))
    deadline = time.monotonic() + float(seconds) + _GRACE_SECONDS
    packets = count = 0
    first = last = 0.0
    while time.monotonic() < deadline:
        try:
            size = len(sock.recv(65536))
        except TimeoutError:
            continue
        last = time.monotonic()
        first = first or last
        packets, count = packets + 1, count + size
    print(json.dumps({"packets": packets, "bytes": count, "seconds": last - first}))


def send(address: str, port: str, *rest: str) -> None:
    seconds, size, mbit, tos = rest
    sock = _socket_to(address, int(port), int(tos))
    payload = bytes(int(size))
    gap = int(size) * 8 / (float(mbit) * 1e6)
    start = time.monotonic()
    packets = refused = 0
    while (now := time.monotonic()) < start + float(seconds):
        due = int((now - start) / gap) + 1
        for _ in range(packets + refused, due):
            try:
                sock.send(payload)
                packets += 1
            except OSError:
                refused += 1
        time.sleep(max(gap, 0.001))
    print(json.dumps({"packets": packets, "bytes": packets * int(size), "seconds": time.monotonic() - start}))


def burst(address: str, port: str, *rest: str) -> None:
    """Begin the bursts at all moments between two packets of a call: what they lose hangs on that, and a run on luck."""
    seconds, size, count, period, tos = rest
    sock = _socket_to(address, int(port), int(tos))
    payload = bytes(int(size))
    start = time.monotonic()
    packets = bursts = 0
    while bursts * float(period) < float(seconds):
        phase = bursts * _GOLDEN % 1 * _PHASES_SECONDS
        time.sleep(max(0.0, start + bursts * float(period) + phase - time.monotonic()))
        bursts += 1
        for _ in range(int(count)):
            with contextlib.suppress(OSError):  # the device is full: not sent
                sock.send(payload)
                packets += 1
    print(json.dumps({"packets": packets, "bytes": packets * int(size), "seconds": time.monotonic() - start}))


def main() -> None:
    ends: dict[str, Callable[..., None]] = {"echo": echo, "call": call, "sink": sink, "send": send, "burst": burst}
    ends[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
