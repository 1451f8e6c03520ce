"""Round trips by class through a tunnel, by ICMP echo: for a client that does not answer requests itself.

Echo requests leave by the tunnel device. The gateway behind it must answer pings, and nothing else of this machine may
re-route or re-mark them.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence

from qosctl.bpf.dscp import Dscp, Ecn, TrafficClass
from qosctl.bpf.errors import NoPermissionError, RefusedError
from qosctl.supervisor.path.rtt import ROUNDS, DscpTimes
from qosctl.supervisor.path.waiting import arrivals

_GAP = 0.1  # seconds between two requests
_LINGER = 0.5  # seconds for the last answers
_REQUEST, _REPLY = 8, 0
_ECHO = struct.Struct("!BBHHH")
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # linux/sockios.h
_IFREQ, _ADDRESS_AT = struct.Struct("=16s24x"), 20
_RECEIVE_BYTES = 2048
_MILLISECONDS = 1000.0


def far_end(device: str) -> str | None:
    """Return the server's address inside the tunnel: the first of the tunnel's IPv4 network, which a gateway takes.

    None where the device has no IPv4 network, only an address.
    """
    request = _IFREQ.pack(os.fsencode(device)[:15])
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        local, mask = (
            socket.inet_ntoa(fcntl.ioctl(asker, question, request)[_ADDRESS_AT : _ADDRESS_AT + 4])
            for question in (_SIOCGIFADDR, _SIOCGIFNETMASK)
        )
        network = ipaddress.ip_interface(f"{local}/{mask}").network
        return str(network[1]) if network.num_addresses > 2 else None
    return None


def measure(device: str, address: str, classes: Sequence[Dscp]) -> list[DscpTimes]:
    """Measure the classes in turns; takes ROUNDS * 0.1 s for each. RefusedError when the device goes away."""
    numbers: dict[int, tuple[Dscp, float]] = {}
    times: dict[Dscp, list[float]] = {dscp: [] for dscp in classes}
    with _echo_socket(device) as echo:
        identifier = os.getpid() & 0xFFFF
        for number in range(len(classes) * ROUNDS):
            dscp = classes[number % len(classes)]
            echo.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TrafficClass.of(dscp, Ecn.NOT_ECT).byte)
            numbers[number] = (dscp, time.monotonic())
            try:
                echo.sendto(_request(identifier, number), (address, 0))
            except OSError as error:
                raise RefusedError(f"{device}: {error.strerror}", "qosctl flows") from error
            _listen(echo, identifier, numbers, times, time.monotonic() + _GAP)
        _listen(echo, identifier, numbers, times, time.monotonic() + _LINGER)
    return [DscpTimes(dscp, times[dscp], ROUNDS - len(times[dscp])) for dscp in classes]


def _echo_socket(device: str) -> socket.socket:
    try:
        echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError as error:
        raise NoPermissionError("echo requests need CAP_NET_RAW", "run it as root") from error
    with contextlib.ExitStack() as stack:
        stack.callback(echo.close)
        try:
            echo.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(device))
        except OSError as error:
            raise RefusedError(f"{device}: {error.strerror}", "qosctl flows") from error
        stack.pop_all()
    return echo


def _listen(
    echo: socket.socket,
    identifier: int,
    numbers: dict[int, tuple[Dscp, float]],
    times: dict[Dscp, list[float]],
    until: float,
) -> None:
    for _ in arrivals(echo, until):
        number = _reply(echo.recv(_RECEIVE_BYTES), identifier)
        if number is not None and number in numbers:
            dscp, sent = numbers.pop(number)
            times[dscp].append((time.monotonic() - sent) * _MILLISECONDS)


def _request(identifier: int, number: int) -> bytes:
    message = _ECHO.pack(_REQUEST, 0, 0, identifier, number)
    total = sum(struct.unpack("!4H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(_REQUEST, 0, ~total & 0xFFFF, identifier, number)


def _reply(packet: bytes, identifier: int) -> int | None:
    """Return the number of our request that this IPv4 packet answers; None for anything else."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < header + _ECHO.size or header < 20:
        return None
    kind, _code, _checksum, whose, number = _ECHO.unpack_from(packet, header)
    return int(number) if kind == _REPLY and whose == identifier else None
