"""A program of the kind that is followed, without its cryptography: reads packets from a TUN, in this very thread.

What it would send is handed to the egress program by BPF_PROG_TEST_RUN, which runs in the caller's task, too.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.kernel import netns, syscall
from qosctl.bpf.load.loader import LOADER
from qosctl.bpf.load.programs import TUN_READS_TRACEPOINT
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.following import Patterns, follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.outcome import Outcome

from tests.lab.packets import frame, ipv4, ipv6, record, udp
from tests.lab.program import Kernel, Ran, kernel

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUNSETOFFLOAD, _TUN_F_CSUM, _TUN_F_USO = 0x400454D0, 0x01, 0x60
_UDP_SEGMENT = 103
_OF_NO_FLOW = 9  # a port
_HEADERS4, _HEADERS6 = 28, 48  # IP and UDP
SETTLED_S = 0.3
"""After so long it is not asked any more whether a program has read what we have not seen (UNSEEN_TICKS in follow.h)."""
_NUMBERS = itertools.count(1 << 48)
_GCM = 13 + 8 + 1 + 16
"""What a packet becomes longer by in a DTLS record of AnyConnect's with AES-GCM."""


class TunDevice:
    """A TUN device in the present namespace, up, with an address of each version; and somebody who sends through it."""

    def __init__(self, name: str, number: int, flags: int = 0) -> None:
        self.name = name
        self.far = {4: f"10.66.{number}.2", 6: f"fd66:{number}::2"}
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | flags)
        fcntl.ioctl(self.fd, _TUNSETIFF, request)
        for words in (
            f"addr add 10.66.{number}.1/24 dev {name}", f"addr add fd66:{number}::1/64 dev {name} nodad",
            # Up in a request of its own: within one, the kernel brings it up before it takes the mode (do_setlink). Then it
            # solicits routers from a link-local address, by a timer, amid the test's packets.
            f"link set {name} multicast off addrgenmode none", f"link set {name} up",
        ):  # fmt: skip
            subprocess.run(["ip", *words.split()], check=True)
        self._sockets = {
            version: socket.socket(family, socket.SOCK_DGRAM)
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
        }
        self.drain()

    def send(self, length: int, dscp: Dscp = EF, version: int = 4, ecn: int = 0) -> None:
        """Let a packet of `length`, its IP header included, wait in the device."""
        byte = struct.pack("=i", dscp.value << 2 | ecn)
        control = (socket.IPPROTO_IP, socket.IP_TOS) if version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        payload = bytes(length - (_HEADERS4 if version == 4 else _HEADERS6))
        self._sockets[version].sendmsg([payload], [(*control, byte)], 0, (self.far[version], 9))

    def read(self) -> bytes:
        """Read what came first, as the tunnel's program does."""
        return os.read(self.fd, 65535)

    def send_batch(self, segments: int, size: int) -> None:
        """Let one skb of several datagrams wait (UDP_SEGMENT), uncut, for a reader who takes such (IFF_VNET_HDR)."""
        fcntl.ioctl(self.fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_USO)
        segment = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))
        self._sockets[4].sendmsg([bytes(segments * size)], [segment], 0, (self.far[4], 9))

    def drain(self) -> None:
        """Read all that the kernel itself has sent."""
        try:
            while True:
                self.read()
        except BlockingIOError:
            pass

    def take(self, length: int, dscp: Dscp = EF, version: int = 4, ecn: int = 0) -> None:
        """Send and read one packet."""
        self.send(length, dscp, version, ecn)
        while len(self.read()) != length:
            pass  # the kernel itself has sent something

    def close(self) -> None:
        """Let the device go."""
        for each in self._sockets.values():
            each.close()
        os.close(self.fd)


@dataclass(frozen=True)
class TunProgram:
    """The programs loaded, the tracepoint running, and one device, `tun0`, that is followed."""

    kernel: Kernel
    patterns: Patterns
    tun: TunDevice

    def leave(self, payload: bytes, *, version: int = 4, gso_segs: int = 0) -> Ran:
        """Let a datagram with this payload pass the egress program."""
        datagram = udp(payload, source=_OF_NO_FLOW)
        packet = frame(ipv4(datagram) if version == 4 else ipv6(datagram))
        return self.kernel.run(packet, gso_segs=gso_segs, gso_size=len(payload) if gso_segs else 0)

    def leave_sealed(self, length: int, *, version: int = 4) -> Ran:
        """Let a DTLS record with AES-GCM pass that holds a packet of `length`."""
        return self.leave(dtls(length + _GCM), version=version)

    def begin_anew(self) -> None:
        """Forget what this task has read: passtos was off in between."""
        self.tun.drain()
        # Since another moment each time, and since so long that there may be no reads that we have not seen.
        self.kernel.state.control._fields[1] = self.kernel.state.control._fields[1] - 1

    def close(self) -> None:
        """End it."""
        self.tun.close()


def dtls(size: int) -> bytes:
    """A datagram of `size` that is one record of application data."""
    return record(next(_NUMBERS), bytes(size - 13))


def openvpn(size: int, opcode: int = 9) -> bytes:
    """A datagram of `size` that is a data packet of OpenVPN."""
    return bytes([opcode << 3]) + os.urandom(size - 1)


def openvpn_numbered(size: int) -> bytes:
    """The same, of one client, with an AEAD: with packet ids one after the other."""
    return bytes([9 << 3, 0, 0, 1]) + (next(_NUMBERS) & 0xFFFFFFFF).to_bytes(4) + os.urandom(size - 8)


def stamped(ran: Ran) -> int | None:
    """Return the DSCP that a packet left with; None where it was not marked."""
    if ran.outcome not in (Outcome.STAMPED, Outcome.UNCHANGED):
        return None
    return ran.packet[15] >> 2 if ran.packet[14] >> 4 == 4 else int.from_bytes(ran.packet[14:16]) >> 6 & 0x3F


@contextmanager
def tun_program() -> Iterator[TunProgram]:
    """Load everything in a fresh namespace, with the tracepoint running."""
    with ExitStack() as stack:
        loaded = stack.enter_context(kernel())
        pins = follow_pins()
        pins.create()
        pins.provide(FollowWay.READS)
        following = LOADER.load(folder(), pins_of(1).path, ethernet=True)
        stack.callback(os.close, following)
        reads = LOADER.load_tun_reads(folder(), netns.cookie())
        stack.callback(os.close, reads)
        stack.callback(os.close, syscall.raw_tracepoint_open(TUN_READS_TRACEPOINT, reads))
        patterns = stack.enter_context(open_patterns(pins))
        patterns.add("tun0")
        time.sleep(SETTLED_S)
        tun = TunDevice("tun0", 0)
        stack.callback(tun.close)
        yield TunProgram(replace(loaded, programs={True: following}), patterns, tun)
