"""The interface to the machine's routes and DNS settings: they follow the tunnel, and are undone at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from qosctl.dtls.session.setup import Opened
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.vpn.host_routes import Network
from qosctl.dtls.vpn.session import Interface

SETTLE_S, RESETTLE_S = 10.0, 3.0
"""How long packets wait for addresses, routes and DNS at first, and an attempt to connect again."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class HostConfig:
    """What one session gives the machine. `gateway` is the server's address; `tunnel` is empty before there is one."""

    tunnel: str
    gateway: IPv4Address | IPv6Address
    mtu: int
    addresses: tuple[Interface, ...]
    network: Network


class HostConfigurator(Protocol):
    """Gives the tunnel device its addresses, routes and DNS. No call waits for what it starts, but `settle`.

    Errors are its own to tell: a tunnel without routes is better than none.
    """

    def prepare(self, given: HostConfig) -> None:
        """Get ready for a device, which there is not yet."""
        ...

    def apply(self, given: HostConfig) -> None:
        """The device is there, or has another session: make the machine follow."""
        ...

    def attempt(self) -> None:
        """The session is lost: see that packets to the server do not go into the tunnel."""
        ...

    def settle(self, seconds: float) -> bool:
        """Wait until all of that is done, for `seconds` at most; say whether it is."""
        ...

    def close(self, *, asked: bool) -> None:
        """Undo everything and wait for that; the device is still there. Twice is fine, and the first time counts.

        `asked` says whether the user wanted the end. After any other, what belonged in the tunnel may have to wait for
        the next one rather than leave outside of it.
        """
        ...


class Following:
    """The client's side of it: when to tell, and how long to wait. Without configurator it does nothing."""

    def __init__(self, configurator: HostConfigurator | None, stop: Stop) -> None:
        self._configurator = configurator
        self._stop = stop

    @property
    def assigns(self) -> bool:
        """Whether the device's addresses are somebody else's to give."""
        return self._configurator is not None

    def prepare(self, opened: Opened, name: str | None, mtu: int, addresses: tuple[Interface, ...]) -> None:
        """There will be a device."""
        if self._configurator is not None:
            self._configurator.prepare(HostConfig(name or "", opened.outer, mtu, addresses, opened.session.network))
            self._settle(SETTLE_S)

    def begin(self, opened: Opened, tun: Tun) -> None:
        """There is a device, and no packet yet."""
        self.go_on(opened, tun)
        self._settle(SETTLE_S)

    def go_on(self, opened: Opened, tun: Tun) -> None:
        """The device has another session, whose packets do not wait."""
        if self._configurator is not None:
            self._configurator.apply(HostConfig(tun.name, opened.outer, tun.mtu, tun.addresses, opened.session.network))

    def attempt(self) -> None:
        """The way to the server is looked for again."""
        if self._configurator is not None:
            self._configurator.attempt()
            self._settle(RESETTLE_S)

    def close(self) -> None:
        """Undo it all; twice is fine."""
        if self._configurator is not None:
            self._configurator.close(asked=self._stop.requested)

    def _settle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._configurator is not None and not self._configurator.settle(_LOOK_S):
            if self._stop.requested or time.monotonic() >= deadline:
                return
