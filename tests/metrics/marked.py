"""A client in miniature: a flow in the kernel's map, its ring, and one DTLS record to mark and send."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.maps import namespace_maps
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.ring import Ring

from tests.lab import Namespace

HERE, PEER = "10.91.9.1", "10.91.9.2"
NUMBER = 1 << 48 | 7  # epoch 1, sequence number 7
RECORD = bytes([23, 0xFE, 0xFD]) + NUMBER.to_bytes(8, "big") + (16).to_bytes(2, "big") + bytes(16)


@contextmanager
def sender(namespace: Namespace) -> Iterator[socket.socket]:
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((PEER, 4443))
        yield sock


@contextmanager
def flow(namespace: Namespace, port: int, tunnel: str = "tun0", *, alive: bool = True) -> Iterator[Ring]:
    """A flow from `port` to the peer, made by this process, or by one that has gone."""
    ring = Ring(Owner(os.getpid(), time.time_ns(), tunnel, "vpn.example"))
    key = FlowKey((HERE, port), (PEER, 4443))
    with namespace.entered(), namespace_maps.open_state() as opened:
        opened.flows.add(key, ring)
    if not alive:
        ring.close()
    try:
        yield ring
    finally:
        ring.close()
        with namespace.entered(), namespace_maps.open_state() as opened:
            opened.flows.remove(key)
