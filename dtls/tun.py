"""The tunnel's network device (linux/if_tun.h): inner packets out of the stack and back into it.

The device lives as long as its descriptor: closing it, or the end of the process by any death, removes it with its
addresses and routes. We make new devices only, and never take over one that somebody else made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface, IPv6Interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from qosctl.bpf.errors import NoPermissionError, NotAttachedError, RefusedError, ShortageError, UsageError
from qosctl.dtls import readdress
from qosctl.dtls.rtnetlink import conversation

_CLONE_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000  # packets begin with their IP header
_IFF_TUN_EXCL = 0x8000  # refuse a name that exists instead of taking the device over
_IFREQ = struct.Struct("16sH22x")
_NAME_BYTES = 15  # IFNAMSIZ less the final zero

MIN_MTU = 68  # RFC 791; the kernel refuses less
MIN_MTU_IPV6 = 1280  # RFC 8200 section 5; the kernel takes IPv6 off a device with less
MAX_MTU = (1 << 14) - 1  # a DTLS record less the type byte

READ_LIMIT = 128
"""Packets of one `read_dry` at the most: long batches even of several classes, yet the downlink waits for 0.4 ms only."""
_GONE = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})
_NO_MEMORY = frozenset({errno.ENOMEM, errno.ENOBUFS})


class Tun:
    """A TUN device that is up. Make one with `Tun.create`; usable as a context manager."""

    def __init__(
        self,
        descriptor: int,
        name: str,
        mtu: int,
        addresses: Sequence[IPv4Interface | IPv6Interface] = (),
        *,
        assign: bool = True,
    ) -> None:
        """For `create`: take over an open descriptor of the device `name`, which has `addresses`."""
        self._assign = assign
        self._descriptor = descriptor
        self.name = name
        self.mtu = self._fitted = mtu
        self._addresses = tuple(addresses)
        self.write_lost = 0
        """Packets the kernel would not take: no IP packet, no memory, or a device that is down."""

    @classmethod
    def create(
        cls, name: str | None, mtu: int, addresses: Sequence[IPv4Interface | IPv6Interface], *, assign: bool = True
    ) -> Tun:
        """Make the device, give it `addresses` with their prefixes, and set it up.

        With `assign` False somebody else gives it the addresses, now and whenever they change.
        `name` None lets the kernel choose (tun0, tun1, ...); `mtu` is in bytes of inner packet. UsageError for a
        name or MTU that cannot be, RefusedError for a name that is taken and for what the kernel refuses,
        NoPermissionError without CAP_NET_ADMIN. Whatever fails, no device is left behind.
        """
        _check(name, mtu, addresses)
        descriptor, given = _open(name)
        try:
            _configure(given, mtu, addresses if assign else ())
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, given, mtu, addresses, assign=assign)

    def fileno(self) -> int:
        """Return the descriptor, for a selector; -1 after `close`."""
        return self._descriptor

    def read_dry(self, limit: int = READ_LIMIT) -> list[bytes]:
        """Return the packets that wait, `limit` at most, in order; empty when there are none.

        NotAttachedError when the device is gone.
        """
        # A fresh bytes object for each is quicker than readv into slots of one buffer, and nobody overwrites it.
        packets: list[bytes] = []
        # Always with room for the longest record: the operator may raise the MTU while we run, and room costs nothing.
        descriptor, read = self._descriptor, os.read
        try:
            for _ in range(limit):
                packets.append(read(descriptor, MAX_MTU))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _NO_MEMORY:  # of a queue, what cannot be read has gone with its device
                raise self._gone(error) from error
        return packets

    def write(self, packet: bytes | memoryview) -> bool:
        """Hand an inner packet to the stack; False, and counted, when the kernel does not take it.

        The packet is the far end's: what is no IP packet is its mistake and not an error here. NotAttachedError
        when the device is gone.
        """
        try:
            os.write(self._descriptor, packet)
        except OSError as error:
            if error.errno in _GONE:
                raise self._gone(error) from error
            self.write_lost += 1  # no IP packet, no memory, a device that is down: this packet's loss, and nothing more
            return False
        return True

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The addresses it was given."""
        return self._addresses

    def fit(self, size: int) -> None:
        """Let the stack send packets of up to `size` bytes, or what the device's families need at the least.

        Nothing happens while `size` stays the same: in between the MTU is the operator's. Best effort, since a device
        with too large an MTU works too.
        """
        if size == self._fitted:
            return
        self._fitted = size
        self.mtu = max(size, MIN_MTU_IPV6 if any(address.version == 6 for address in self._addresses) else MIN_MTU)
        with suppress(NetlinkError, OSError, ShortageError), conversation() as ip:
            ip.link("set", index=socket.if_nametoindex(self.name), mtu=self.mtu)

    def readdress(self, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
        """Give the device other addresses: what is in both stays, with all connections that use it.

        RefusedError or NoPermissionError for what the kernel refuses, NotAttachedError when the device is gone.
        """
        new, old = set(addresses) - set(self._addresses), set(self._addresses) - set(addresses)
        if not new and not old:
            return
        if {address.version for address in addresses} != {address.version for address in self._addresses}:
            self._fitted = 0  # what fits the device depends on its families
        with _netlink_errors(self.name), conversation() as ip:
            try:
                index = socket.if_nametoindex(self.name)
            except OSError as error:
                raise self._gone(error) from error
            if any(address.version == 6 for address in new):
                self._make_room_for_ipv6(ip, index)
            if self._assign:
                readdress.replace(ip, index, old, new)
        self._addresses = tuple(addresses)

    def _make_room_for_ipv6(self, ip: IPRoute, index: int) -> None:
        """Raise an MTU that was fitted to a path without room for IPv6: the kernel refuses its addresses until then."""
        (link,) = ip.get_links(index)
        if link.get_attr("IFLA_MTU") < MIN_MTU_IPV6:
            self.mtu = MIN_MTU_IPV6
            ip.link("set", index=index, mtu=self.mtu)

    def close(self) -> None:
        """Remove the device; twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Tun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gone(self, error: OSError) -> NotAttachedError:
        why = "" if error.errno in _GONE else f" ({error.strerror})"
        return NotAttachedError(f"{self.name}: the device is gone{why}", "connect again")


def _check(name: str | None, mtu: int, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
    if name is not None:
        fits = 0 < len(os.fsencode(name)) <= _NAME_BYTES and name not in (".", "..")
        if not fits or any(c in "/:%" or c.isspace() or c == "\0" for c in name):
            raise UsageError(f"{name!r} is not a device name", "1 to 15 letters and digits, as in vpn0")
    least = MIN_MTU_IPV6 if any(address.version == 6 for address in addresses) else MIN_MTU
    if not least <= mtu <= MAX_MTU:
        raise UsageError(f"an MTU of {mtu} is out of range: {least} to {MAX_MTU}")


def _open(name: str | None) -> tuple[int, str]:
    """Return a descriptor of a new device and the device's name."""
    try:
        descriptor = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise NoPermissionError(f"{_CLONE_DEVICE}: {error.strerror}", "run it as root") from error
    except OSError as error:
        raise RefusedError(f"{_CLONE_DEVICE}: {error.strerror}", "modprobe tun") from error
    shown = name or "tun"
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL
    try:
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(os.fsencode(name or ""), flags))
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EBUSY:
            raise RefusedError(f"{shown}: name is taken", "another name, or: ip link show " + shown) from error
        if error.errno == errno.EPERM:
            raise NoPermissionError(f"{shown}: making a tunnel device needs CAP_NET_ADMIN", "run it as root") from error
        raise RefusedError(f"{shown}: {error.strerror}") from error
    return descriptor, os.fsdecode(_IFREQ.unpack(answer)[0].rstrip(b"\0"))


def _configure(name: str, mtu: int, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
    with _netlink_errors(name), conversation() as ip:
        (index,) = ip.link_lookup(ifname=name)
        ip.link("set", index=index, mtu=mtu, state="up")
        for address in addresses:
            ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


@contextmanager
def _netlink_errors(name: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise NoPermissionError(f"{name}: configuring it needs CAP_NET_ADMIN", "run it as root") from error
        raise RefusedError(f"{name}: {os.strerror(error.code)}") from error
    except OSError as error:  # of the conversation itself
        raise ShortageError.of(name, error) from None
