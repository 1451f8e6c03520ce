"""The connected UDP socket of a tunnel: many records per system call, in both directions.

Out, a batch is one `sendmsg` with UDP_SEGMENT: one walk through the stack for up to 64 records. In, UDP_GRO gives
many datagrams of one size in one read. Where the kernel refuses UDP_SEGMENT, a batch goes out record by record.

What the path answers (ICMP: nobody there, too big, no route) and what the kernel refuses (no memory) is loss, counted
and not raised: a tunnel outlives it, and dead peer detection is the judge of the rest. Only EBADF is raised, which says
that the socket is not ours any more.

ICMP comes from anybody. Therefore datagrams go out whole and unfragmented at any size that the device takes, whatever
the kernel has been told of the path's MTU (IP_PMTUDISC_PROBE): what passes is for probes to find out, which only the
server can echo (RFC 8899 section 4.6). IP_PMTUDISC_INTERFACE would not do, for it lets routers fragment.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from qosctl.bpf.dscp import Ecn
from qosctl.bpf.errors import QosctlError, RefusedError
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, MTU_OPTION, UDP_HEADER_BYTES
from qosctl.dtls.packets.batch import Batch
from qosctl.dtls.packets.ecn import ecn_of
from qosctl.dtls.transport.addressing import resolve, widen
from qosctl.dtls.transport.outer_sockets import PLAIN_SOCKETS, OuterSockets

SOL_UDP = 17
UDP_SEGMENT = 103  # linux/udp.h; the socket module names neither
UDP_GRO = 104

RECEIVE_BYTES = 1 << 16
"""Room for one read: GRO never joins more than a UDP datagram's length."""
RECEIVE_READS = 32
"""Reads of one `arrivals` at the most."""
_BUFFER_BYTES = 4 * RECEIVE_BYTES

_CONTROL_BYTES = 2 * socket.CMSG_SPACE(4)  # segment size, and the traffic class
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_WANT, _PMTUDISC_PROBE = 1, 3
_TRIES = 4
"""An answer to an earlier datagram is reported by whatever call comes next, which then has sent nothing. Forged answers
may come so fast that the second call has another to report."""
_IP_RECVTOS, _IPV6_RECVTCLASS = 13, 66
_NO_MEMORY = frozenset({errno.ENOMEM, errno.ENOBUFS})
_GSO_REFUSED = frozenset({errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.EMSGSIZE})


@dataclass(slots=True)
class UdpCounts:
    """What the socket saw; datagrams, not system calls, unless named otherwise."""

    sent: int = 0
    received: int = 0
    lost: int = 0
    """Datagrams the kernel would not send and will not send later."""
    full: int = 0
    """Sends that found the socket buffer full."""
    gso_refused: int = 0
    """Batches that went record by record because the kernel refused UDP_SEGMENT for them."""
    path_errors: int = 0
    """Answers of the path that a read or a send reported."""


Arrival = tuple[list[memoryview], Ecn]
"""What one read brought: datagrams, and the ECN field of their IP headers, which GRO joins only where it is equal."""
_TlsControl = list[tuple[int, int, bytes]]


class UdpSocket:
    """A non-blocking, connected UDP socket. Make one with `UdpSocket.connect`."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected socket; it must be non-blocking."""
        self._socket = connected
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._gso_works = True
        self._control: _TlsControl = []  # the last read's, which the next one's mostly equals
        self._segment, self._ecn = _parse(self._control)
        self.counts = UdpCounts()
        self.too_big = False
        """Set when somebody said that a datagram is too big for the path; the reader sets it back. A hint."""
        self._discover(_PMTUDISC_PROBE)

    @classmethod
    def connect(
        cls, address: tuple[str, int], local: tuple[str, int] | None = None, sockets: OuterSockets = PLAIN_SOCKETS
    ) -> UdpSocket:
        """Open a socket to `address`, a numeric IPv4 or IPv6 address (with %zone where it needs one) and a port.

        `local` binds the near end; without it the kernel chooses. UsageError for an address that is none,
        RefusedError where there is no route, the local address is taken, or `sockets` has none.
        """
        family, target = resolve(address)
        where = f"UDP to {address[0]} port {address[1]}"
        try:
            opened = sockets.open(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise RefusedError(f"{where}: {error.strerror}", "ulimit -n") from error
        try:
            widen(opened)
            opened.setsockopt(SOL_UDP, UDP_GRO, 1)
            if family == socket.AF_INET:
                opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
            else:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
            if local is not None:
                opened.bind(resolve(local)[1])
            opened.connect(target)
        except OSError as error:
            opened.close()
            raise RefusedError(f"{where}: {error.strerror}", "ip route get") from error
        except QosctlError:
            opened.close()
            raise
        return cls(opened)

    @property
    def local(self) -> tuple[str, int]:
        """Address and port of the near end."""
        name = self._socket.getsockname()
        return name[0], name[1]

    @property
    def remote(self) -> tuple[str, int]:
        """Address and port of the far end."""
        name = self._socket.getpeername()
        return name[0], name[1]

    def fileno(self) -> int:
        """Return the descriptor, for a selector; -1 after `close`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; twice is fine."""
        self._socket.close()

    def send(self, batch: Batch) -> bool:
        """Send the batch; False when the socket is full and something of `batch` is left for another time.

        Records the kernel will never take (no route, too big) count as `lost` and as done with.
        """
        count = batch.count
        if count == 1:
            return self._send_one(batch.data)
        if self._gso_works:
            try:
                self._socket.sendmsg([batch.data], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", batch.segment_size))])
            except BlockingIOError:
                self.counts.full += 1
                return False
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self._note(error)
                if error.errno in _GSO_REFUSED:
                    # EIO and EOPNOTSUPP are about the device or the kernel, the others about this batch.
                    self._gso_works = error.errno in (errno.EINVAL, errno.EMSGSIZE)
                    self.counts.gso_refused += 1
                else:
                    # Most likely an answer to an earlier datagram, which this call only delivered: try once more.
                    self.counts.path_errors += 1
            else:
                self.counts.sent += count
                return True
        return self._send_one_by_one(batch)

    def _send_one_by_one(self, batch: Batch) -> bool:
        while batch.count:
            size = batch.segment_size if batch.count > 1 else len(batch.data)
            if not self._send_one(batch.data[:size]):
                return False
            batch.data = batch.data[size:]
            batch.count -= 1
        return True

    def _send_one(self, record: memoryview) -> bool:
        """Send a datagram, or lose it; False when the socket is full."""
        code = self._attempt(record)
        if code == errno.EMSGSIZE:  # no rumour: the device takes less. In fragments, then, until the probes have found out
            self._discover(_PMTUDISC_WANT)
            code = self._attempt(record)
            self._discover(_PMTUDISC_PROBE)
        if code == errno.EAGAIN:
            self.counts.full += 1
            return False
        if code:
            self.counts.lost += 1
        else:
            self.counts.sent += 1
        return True

    def _attempt(self, record: memoryview) -> int:
        """Send a datagram; return 0, or the number of the error: EAGAIN when the socket is full."""
        code = 0
        for _ in range(_TRIES):
            try:
                self._socket.send(record)
            except BlockingIOError:
                return errno.EAGAIN
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self._note(error)
                self.counts.path_errors += 1
                code = error.errno or errno.EIO
            else:
                return 0
        return code

    def send_whole(self, batch: Batch) -> None:
        """Send a probe, in one piece or not at all: it is lost where it is larger than the device takes."""
        for _ in range(_TRIES):
            with suppress(OSError):
                self._socket.send(batch.data)
                return

    def payload_mtu(self) -> int:
        """Return the bytes of payload that fit an unfragmented datagram, as far as the kernel was told of the path.

        Between two routes it knows none (ENOTCONN): then what any datagram may hold.
        """
        family = self._socket.family
        try:
            value = self._socket.getsockopt(*MTU_OPTION[family], 4)
        except OSError:
            return RECEIVE_BYTES
        headers = (IPV4_HEADER_BYTES if family == socket.AF_INET else IPV6_HEADER_BYTES) + UDP_HEADER_BYTES
        return int.from_bytes(value, sys.byteorder) - headers

    def _discover(self, mode: int) -> None:
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)

    def _note(self, error: OSError) -> None:
        if error.errno == errno.EMSGSIZE:
            self.too_big = True

    def receive(self) -> list[memoryview]:
        """Return the datagrams of `arrivals`."""
        return [datagram for datagrams, _ in self.arrivals() for datagram in datagrams]

    def arrivals(self, reads: int = RECEIVE_READS) -> list[Arrival]:
        """Return the datagrams that wait, in order, of up to `reads` reads; empty when there are none.

        The memory is used again by the next call. A full list does not mean that there is no more.
        """
        arrivals: list[Arrival] = []
        room, receive = self._buffer, self._socket.recvmsg_into
        for _ in range(reads):
            if len(room) < RECEIVE_BYTES:
                break
            try:
                size, control, _, _ = receive([room], _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self._note(error)
                self.counts.path_errors += 1
                if error.errno in _NO_MEMORY:  # the datagram is still there, and is read when there is some again
                    break
                continue
            if control != self._control:
                self._control = control
                self._segment, self._ecn = _parse(control)
            segment = self._segment
            if segment < size:
                datagrams = [room[at : min(at + segment, size)] for at in range(0, size, segment)]
            else:
                datagrams = [room[:size]]
            self.counts.received += len(datagrams)
            arrivals.append((datagrams, self._ecn))
            room = room[size:]
        return arrivals


def _parse(control: _TlsControl) -> tuple[int, Ecn]:
    """Return the length of all datagrams of a read but the last, and their ECN field."""
    segment, traffic_class = RECEIVE_BYTES, 0
    for level, kind, value in control:
        if level == SOL_UDP and kind == UDP_GRO:
            (segment,) = struct.unpack("=i", value)
        else:  # the only other one asked for: a byte of IPv4, an int of IPv6
            traffic_class = int.from_bytes(value, sys.byteorder)
    return segment, ecn_of(traffic_class)
