"""The device that a helper makes for its client, and changes when it is asked to: this one and no other."""

from __future__ import annotations

from typing import Any

from qosctl.dtls.transport.netdev import MAX_MTU, MIN_MTU, NAME, NetDevice, let_go
from qosctl.supervisor.tunnel.vpnc_environment import interfaces


class HelperDevice:
    """Made once. `wanted` is the name that the user asked for, None for the kernel's choice."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self.expected = wanted if wanted is not None and NAME.match(wanted) else ""
        """Its name, as far as that is known before there is one."""
        self._device: NetDevice | None = None
        self.name = ""
        """Empty before there is one."""
        self.descriptor = -1

    def create(self, arguments: dict[str, Any], *, assign: bool) -> str:
        """Make it; return its name. ValueError for what makes no sense, else the errors of DeviceKeeper.create."""
        if self._device is not None:
            raise ValueError("a second device")
        mtu, addresses = _mtu(arguments), interfaces(arguments.get("addresses"))
        device = NetDevice()
        self.descriptor, self.name = device.create(self._wanted, mtu, addresses, assign=assign)
        self.expected = self.name
        self._device = device
        return self.name

    def set_mtu(self, arguments: dict[str, Any]) -> None:
        """Size it."""
        self._made().set_mtu(_mtu(arguments))

    def readdress(self, arguments: dict[str, Any]) -> int:
        """Give it other addresses; see DeviceKeeper.readdress."""
        return self._made().readdress(interfaces(arguments.get("addresses")))

    def close(self) -> None:
        """Let it go, with all that has been done to it; twice is fine."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            let_go(descriptor)

    def _made(self) -> NetDevice:
        if self._device is None:
            raise ValueError("no device yet")
        return self._device


def _mtu(arguments: dict[str, Any]) -> int:
    mtu = arguments.get("mtu")
    if not isinstance(mtu, int) or not MIN_MTU <= mtu <= MAX_MTU:  # True is below the least
        raise ValueError("no MTU")
    return mtu
