"""Give a device other addresses, over netlink, without a moment in which it has none of a family.

The kernel takes a family's routes off a device with its last address, and with the first IPv4 address of a network all
others of that network, unless net.ipv4.conf.*.promote_secondaries is set. So a new IPv4 address comes as a network of its
own first (/32), the old ones go, and then it gets its network.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Set
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface

from qosctl.dtls.transport.pyroute2_by_need import IPRoute, NetlinkError

_ALONE = 32

Interface = IPv4Interface | IPv6Interface


def replace(ip: IPRoute, index: int, old: Set[Interface], new: Set[Interface]) -> None:
    """Take `old` off the device and put `new` on it. What others have done already is no error; NetlinkError otherwise."""
    first = {each if each.version == 6 else IPv4Interface((each.ip, _ALONE)) for each in new}
    for address in first:
        _add(ip, index, address)
    for address in old - first:
        _remove(ip, index, address)
    for address in new - first:
        _add(ip, index, address)
    for address in first - new:
        _remove(ip, index, address)


def _add(ip: IPRoute, index: int, address: Interface) -> None:
    with _already(errno.EEXIST):
        ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


def _remove(ip: IPRoute, index: int, address: Interface) -> None:
    with _already(errno.EADDRNOTAVAIL):  # whoever sets the device down takes its IPv6 addresses off it
        ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


@contextmanager
def _already(code: int) -> Iterator[None]:
    """Do nothing about an error that says that it is so."""
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
