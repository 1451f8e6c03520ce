"""The tunnel device of one call of the client, and what comes and goes with it: the flow's entry, addresses, routes, names.

The first session makes it; the ones after it find it there, and with it the connections of whoever uses it.
"""

from __future__ import annotations

import contextlib

from qosctl.dtls.host_config import Following, HostConfigurator
from qosctl.dtls.ip_sizes import IPV6_MTU_MIN
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.marker import Marker
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.transport.netdev import DeviceKeeper
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.vpn.session import RECORD_OVERHEAD


class Device:
    """The device, once there is one. Close it, and everything is gone."""

    def __init__(
        self,
        name: str | None,
        marker: Marker | None,
        configurator: HostConfigurator | None,
        keeper: DeviceKeeper | None,
        stop: Stop,
    ) -> None:
        """`name` None lets the kernel choose; without `configurator` the device gets addresses and no more.

        Without a `keeper` this process makes the device and changes it.
        """
        self._name = name
        self._keeper = keeper
        self._marker = marker
        self._around = Following(configurator, stop)
        self._cleanup = contextlib.ExitStack()
        self.tun: Tun | None = None
        self.entry = FlowEntry(None, "")

    def serve(self, opened: Opened) -> Tun:
        """Make the device, or give the one there is what the session says. Raises what Tun raises."""
        mtu, addresses = opened.session.tunnel_mtu(opened.outer, RECORD_OVERHEAD), opened.session.addresses
        if opened.session.has_ipv6:
            mtu = max(mtu, IPV6_MTU_MIN)  # what DTLS has no room for, TLS carries
        if self.tun is not None:
            self.tun.readdress(addresses)
            self._around.go_on(opened, self.tun)
            return self.tun
        self._cleanup.callback(self._around.close)
        self._around.prepare(opened, self._name, mtu, addresses)
        self.tun = Tun.create(self._name, mtu, addresses, assign=not self._around.assigns, keeper=self._keeper)
        self._cleanup.callback(self.tun.close)
        self.entry = FlowEntry(self._marker, self.tun.name)
        self._cleanup.callback(self.entry.close)
        self._cleanup.callback(self._around.close)  # while the device is there
        self._around.begin(opened, self.tun)
        return self.tun

    @property
    def carries_ipv6(self) -> bool:
        """Whether the device has an IPv6 address."""
        return self.tun is not None and any(each.version == 6 for each in self.tun.addresses)

    def attempt(self) -> None:
        """The way to the server is looked for again."""
        self._around.attempt()

    def close(self) -> None:
        """Undo it all; twice is fine."""
        self._cleanup.close()
