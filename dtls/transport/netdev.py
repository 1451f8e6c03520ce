"""The tunnel's device, as far as it takes CAP_NET_ADMIN (linux/if_tun.h): made, sized, addressed.

The process that moves its packets need not have that (tun.py). Only new devices are made; one that is there already is
refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError, RefusedError, ShortageError, UsageError
from qosctl.dtls.ip_sizes import IPV6_MTU_MIN
from qosctl.dtls.transport import readdress
from qosctl.dtls.transport.pyroute2_by_need import IPRoute, NetlinkError
from qosctl.dtls.transport.rtnetlink import conversation

Interface = IPv4Interface | IPv6Interface

NAME = re.compile(r"(?![-.])[A-Za-z0-9_.-]{1,15}\Z")
"""What a device may be called (IFNAMSIZ less the final zero): no sign of a shell's, whatever a script does with it."""
NAME_OR_EMPTY = re.compile(r"(?![-.])[A-Za-z0-9_.-]{0,15}\Z")
"""The same, or nothing before there is one."""
MIN_MTU = 68  # RFC 791; the kernel refuses less
MAX_MTU = (1 << 14) - 1  # a DTLS record less the type byte

_CLONE_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000  # packets begin with their IP header
_IFF_TUN_EXCL = 0x8000  # refuse a name that exists instead of taking the device over
_IFREQ = struct.Struct("16sH22x")


class DeviceKeeper(Protocol):
    """Makes the one device of a client, and changes it."""

    def create(self, name: str | None, mtu: int, addresses: Sequence[Interface], *, assign: bool) -> tuple[int, str]:
        """Make the device, give it `addresses` with their prefixes, and set it up; return a descriptor and its name.

        With `assign` False somebody else gives it the addresses, now and whenever they change. `name` None lets the kernel
        choose (tun0, tun1, ...); `mtu` is in bytes of inner packet. UsageError for a name or MTU that cannot be,
        RefusedError for a name that is taken and for what the kernel refuses, NoPermissionError without CAP_NET_ADMIN.
        Whatever fails, no device is left behind.
        """
        ...

    def set_mtu(self, mtu: int) -> None:
        """Let the stack send packets of up to `mtu` bytes. Best effort, and nobody waits for it."""
        ...

    def readdress(self, addresses: Sequence[Interface]) -> int:
        """Give the device other addresses; return the MTU that it needed for that, 0 where it could stay as it was.

        RefusedError or NoPermissionError for what the kernel refuses, NotAttachedError when the device is gone.
        """
        ...


class NetDevice:
    """Satisfies DeviceKeeper, in this process. The descriptor is the caller's to close."""

    def __init__(self) -> None:
        self._index = 0
        self._name = ""
        self._addresses: frozenset[Interface] = frozenset()
        self._assign = True

    def create(self, name: str | None, mtu: int, addresses: Sequence[Interface], *, assign: bool) -> tuple[int, str]:
        """Make it; see DeviceKeeper."""
        check(name, mtu, addresses)
        descriptor, self._name = _open(name)
        try:
            with self._errors(), conversation() as ip:
                (self._index,) = ip.link_lookup(ifname=self._name)
                ip.link("set", index=self._index, mtu=mtu, state="up")
                for address in addresses if assign else ():
                    ip.addr("add", index=self._index, address=str(address.ip), prefixlen=address.network.prefixlen)
        except BaseException:
            os.close(descriptor)
            raise
        self._addresses, self._assign = frozenset(addresses), assign
        return descriptor, self._name

    def set_mtu(self, mtu: int) -> None:
        """Size it; see DeviceKeeper."""
        with suppress(QosctlError), self._errors(), conversation() as ip:
            ip.link("set", index=self._index, mtu=mtu)

    def readdress(self, addresses: Sequence[Interface]) -> int:
        """Give it other addresses; see DeviceKeeper."""
        wanted = frozenset(addresses)
        new, old = wanted - self._addresses, self._addresses - wanted
        mtu = 0
        with self._errors(), conversation() as ip:
            if any(address.version == 6 for address in new):
                mtu = self._make_room_for_ipv6(ip)
            if self._assign:
                readdress.replace(ip, self._index, old, new)
        self._addresses = wanted
        return mtu

    def _make_room_for_ipv6(self, ip: IPRoute) -> int:
        """Raise an MTU that was fitted to a path without room for IPv6: the kernel refuses its addresses until then."""
        (link,) = ip.get_links(self._index)
        if link.get_attr("IFLA_MTU") >= IPV6_MTU_MIN:
            return 0
        ip.link("set", index=self._index, mtu=IPV6_MTU_MIN)
        return IPV6_MTU_MIN

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                raise NotAttachedError(f"{self._name}: the device is gone", "connect again") from error
            if error.code == errno.EPERM:
                raise NoPermissionError(f"{self._name}: configuring it needs CAP_NET_ADMIN", "run it as root") from error
            raise RefusedError(f"{self._name}: {os.strerror(error.code)}") from error
        except OSError as error:  # of the conversation itself
            raise ShortageError.of(self._name, error) from None


def let_go(descriptor: int) -> None:
    """Close a device's descriptor, and take back what others who have one may have done to outlive it."""
    with suppress(OSError):
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 0)
    os.close(descriptor)


def check_name(name: str | None) -> None:
    """Raise UsageError for a name that no device can have; None lets the kernel choose."""
    if name is not None and not NAME.match(name):
        raise UsageError(f"{name!r} is not a device name", "1 to 15 letters and digits, as in vpn0")


def check(name: str | None, mtu: int, addresses: Sequence[Interface]) -> None:
    """Raise UsageError for a name or an MTU that cannot be."""
    check_name(name)
    least = IPV6_MTU_MIN if any(address.version == 6 for address in addresses) else MIN_MTU
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
