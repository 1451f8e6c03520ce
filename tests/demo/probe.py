"""Inner packets whose length says what they were, so that the outer wire can be compared with what went in.

A record hides what it carries but not how long it is. Each of the 64 DSCPs, 4 ECN values and 2 address families gets
a length of its own; the outer datagram is longer by a known constant, and so tells which packet it carries.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.demo.stage import Stage
from tests.lab import Frame, Ocserv

PORT = 5000
# DTLS header 13, explicit nonce 8, tag 16 (AES-GCM, RFC 5288), and the frame type byte of the protocol.
_RECORD_OVERHEAD = 13 + 8 + 16 + 1
_UDP_HEADER = 8
_IP_HEADER = {4: 20, 6: 40}
_SHORTEST = {4: 100, 6: 500}  # payload bytes; 256 lengths follow, the two ranges stay apart
_SO_RCVBUFFORCE = 33
_GAP_SECONDS = 0.001  # the tunnel device holds 500 packets: do not pour all in at once


@dataclass(frozen=True)
class Probe:
    """One inner packet."""

    family: int
    dscp: int
    ecn: int

    @property
    def payload_bytes(self) -> int:
        """Length of its UDP payload, which no other probe shares."""
        return _SHORTEST[self.family] + (self.dscp << 2 | self.ecn)

    @property
    def record_bytes(self) -> int:
        """Length of the outer UDP payload that carries it."""
        return _RECORD_OVERHEAD + _IP_HEADER[self.family] + _UDP_HEADER + self.payload_bytes


ALL = tuple(Probe(family, dscp, ecn) for family, dscp, ecn in itertools.product((4, 6), range(64), range(4)))


@dataclass(frozen=True)
class Outcome:
    """What the outer wire showed for a set of probes: one datagram each is right."""

    sent: int
    seen: dict[Probe, Frame]
    delivered: int  # came out at the server's end unchanged: DSCP, ECN and length

    @property
    def marked(self) -> int:
        """Outer datagrams with a DSCP other than 0."""
        return sum(frame.dscp != 0 for frame in self.seen.values())

    @property
    def mismatched(self) -> int:
        """Probes whose outer DSCP was not their own, and probes that never appeared."""
        return self.sent - sum(probe.dscp == frame.dscp for probe, frame in self.seen.items())

    @property
    def ecn_changed(self) -> int:
        """Outer datagrams with ECN bits: none may come out, whatever is inside (RFC 6040 compatibility mode)."""
        return sum(frame.ecn != 0 for frame in self.seen.values())


def send_all(stage: Stage, probes: tuple[Probe, ...] = ALL) -> Outcome:
    """Send each probe once through the tunnel and say what became of it."""
    stage.wire.clear()
    with _receiving(stage) as delivered, sending(stage) as send:
        for probe in probes:
            send(probe)
            time.sleep(_GAP_SECONDS)
        frames = stage.wire.wait_for(lambda frames: len(carried(frames, probes)) == len(probes), timeout=3)
        return Outcome(len(probes), carried(frames, probes), len(delivered() & set(probes)))


def carried(frames: Iterable[Frame], probes: Iterable[Probe]) -> dict[Probe, Frame]:
    """Return which probe each outer datagram carries, by its length; other records are left out."""
    by_length = {probe.record_bytes: probe for probe in probes}
    return {by_length[len(frame.payload)]: frame for frame in frames if len(frame.payload) in by_length}


@contextlib.contextmanager
def sending(stage: Stage) -> Iterator[Callable[[Probe], None]]:
    """Give a function that sends one probe into the tunnel."""
    with stage.net.client.entered():
        v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    def send(probe: Probe) -> None:
        payload = bytes(probe.payload_bytes)
        traffic_class = probe.dscp << 2 | probe.ecn
        if probe.family == 4:
            v4.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
            v4.sendto(payload, (Ocserv.inner4, PORT))
        else:
            v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
            v6.sendto(payload, (Ocserv.inner6, PORT))

    with v4, v6:
        yield send


@contextlib.contextmanager
def _receiving(stage: Stage) -> Iterator[Callable[[], set[Probe]]]:
    """Listen at the server's end of the tunnel; give a function that says which probes came out whole."""
    with stage.net.server.entered():
        v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with v4, v6:
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        v4.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        for sock in (v4, v6):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
            sock.setblocking(False)
        v4.bind(("", PORT))
        v6.bind(("::", PORT))
        yield lambda: {*_drain(v4, 4), *_drain(v6, 6)}


def _drain(sock: socket.socket, family: int) -> Iterator[Probe]:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, ancillary, _, _ = sock.recvmsg(2048, 64)
            traffic_class = ancillary[0][2][0]  # one byte for IPv4, an int (little-endian here) for IPv6
            probe = Probe(family, traffic_class >> 2, traffic_class & 0b11)
            if len(data) == probe.payload_bytes:
                yield probe
