"""What others send through a machine that follows a tunnel has nothing to do with that tunnel, wherever it leaves."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing

import pytest
from qosctl.bpf.dscp import EF
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.follow import follow
from qosctl.supervisor.devices.passtos import set_passtos

from tests.lab.packets import TCP, ipv4, ipv6, udp
from tests.lab.tun_program import SETTLED_S, TunDevice, dtls
from tests.lab.wire import ADDRESSES, NEAR, PORTS, Stand

LENGTH = 200
RECORD = LENGTH + 13 + 8 + 1 + 16  # with AES-GCM
STRANGERS_PORT = PORTS[0] + 1
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def out_of_the_tunnel(source: str, version: int) -> list[bytes]:
    """A segment of TCP, and a datagram that begins like a record and is as long as the one that waits."""
    far = ADDRESSES[version][1]
    segment, forged = bytes(12) + b"\x50" + bytes(7), udp(dtls(RECORD), source=STRANGERS_PORT, destination=PORTS[1])
    if version == 4:
        return [ipv4(segment, protocol=TCP, source=source, destination=far), ipv4(forged, source=source, destination=far)]
    return [ipv6(segment, next_header=TCP, source=source, destination=far), ipv6(forged, source=source, destination=far)]


@pytest.mark.audit
@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_that_comes_out_of_the_tunnel_takes_no_mark_and_no_trust(stand: Stand, version: int) -> None:
    """Finding 20: the program that writes it to its TUN forwards it in its own task, with what it has read still unsent."""
    attach([NEAR])
    follow(["tun*"])
    set_passtos(True)
    stand.sender.sysctl(_FORWARDING[version], "1")
    near, far = ADDRESSES[version]
    with (
        closing(TunDevice("tun0", 0)) as tun,
        socket.socket(_FAMILY[version], socket.SOCK_DGRAM) as own,
        stand.watching() as watched,
    ):
        own.bind((near, PORTS[0]))
        own.connect((far, PORTS[1]))
        time.sleep(SETTLED_S)
        tun.take(LENGTH, EF)
        for packet in out_of_the_tunnel(tun.far[version], version):
            os.write(tun.fd, packet)
        tun.take(LENGTH, EF)
        own.send(dtls(RECORD))
        frames = watched.wait_for(lambda frames: len(frames) == 2)
    assert [(frame.source_port, frame.dscp) for frame in frames] == [(STRANGERS_PORT, 0), (PORTS[0], EF.value)]
