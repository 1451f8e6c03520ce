"""What one session is made of, from its maker (`client`) to its `loop`."""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass

from qosctl.dtls.session.failover import Failover
from qosctl.dtls.session.monitor import SessionMonitor
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.transport.network_monitor import NetworkMonitor
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.tun import Tun
from qosctl.dtls.vpn.frames import StreamDecoder


@dataclass(frozen=True)
class SessionParts:
    """One session, ready to run. Who made it closes it."""

    stop: Stop
    net: NetworkMonitor
    tun: Tun
    poll: select.epoll
    """It has the sockets of `failover`; the loop adds the others."""
    counters: SessionCounters
    opened: Opened
    decoder: StreamDecoder
    """Of the TLS channel."""
    control: TlsControl
    failover: Failover
    monitor: SessionMonitor
    report: Callable[[], None] | None
    """Called about once a second while things move."""
