"""The tunnel's network device: inner packets out of the stack and back into it.

The device exists as long as a descriptor of it is open. With the last one it goes, with its addresses and routes. To make
and change it takes CAP_NET_ADMIN, which the process that moves packets need not have (netdev.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from qosctl.bpf.errors import NotAttachedError
from qosctl.dtls.ip_sizes import IPV6_MTU_MIN
from qosctl.dtls.transport.netdev import MAX_MTU, MIN_MTU, DeviceKeeper, Interface, NetDevice

READ_LIMIT = 128
"""Packets of one `read` at the most: long batches even of several classes, yet the downlink waits for 0.4 ms only."""
_GONE = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})
_NO_MEMORY = frozenset({errno.ENOMEM, errno.ENOBUFS})


class Tun:
    """A TUN device that is up. Make one with `Tun.create`; usable as a context manager."""

    def __init__(
        self, keeper: DeviceKeeper, descriptor: int, name: str, mtu: int, addresses: Sequence[Interface] = ()
    ) -> None:
        """For `create`: take over an open descriptor of the device `name`, which has `addresses`."""
        self._keeper = keeper
        self._descriptor = descriptor
        self.name = name
        self.mtu = self._fitted = mtu
        self._addresses = tuple(addresses)
        self.write_lost = 0
        """Packets the kernel would not take: no IP packet, no memory, or a device that is down."""

    @classmethod
    def create(
        cls,
        name: str | None,
        mtu: int,
        addresses: Sequence[Interface],
        *,
        assign: bool = True,
        keeper: DeviceKeeper | None = None,
    ) -> Tun:
        """Have the device made, by `keeper` or by this process: see DeviceKeeper.create, whose errors these are."""
        keeper = keeper or NetDevice()
        descriptor, given = keeper.create(name, mtu, addresses, assign=assign)
        return cls(keeper, descriptor, given, mtu, addresses)

    def fileno(self) -> int:
        """Return the descriptor, for a selector; -1 after `close`."""
        return self._descriptor

    def read(self, limit: int = READ_LIMIT) -> list[bytes]:
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
    def addresses(self) -> tuple[Interface, ...]:
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
        self.mtu = max(size, IPV6_MTU_MIN if any(address.version == 6 for address in self._addresses) else MIN_MTU)
        self._keeper.set_mtu(self.mtu)

    def readdress(self, addresses: Sequence[Interface]) -> None:
        """Give the device other addresses: what is in both stays, with all connections that use it.

        RefusedError or NoPermissionError for what the kernel refuses, NotAttachedError when the device is gone.
        """
        if set(addresses) == set(self._addresses):
            return
        if {address.version for address in addresses} != {address.version for address in self._addresses}:
            self._fitted = 0  # what fits the device depends on its families
        self.mtu = self._keeper.readdress(addresses) or self.mtu
        self._addresses = tuple(addresses)

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
