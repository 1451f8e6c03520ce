"""What a caller tells the client, and what the client tells back once the tunnel is up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from qosctl.dtls.anyconnect.protocol import ANYCONNECT
from qosctl.dtls.numbering.plain import Numbering, PlainNumbering
from qosctl.dtls.session.key_lifetime import KEY_LIFE, KeyLife
from qosctl.dtls.session.session_stats import Statistics
from qosctl.dtls.transport.addressing import Endpoint
from qosctl.dtls.transport.certificate_check import SystemTrust, Trust
from qosctl.dtls.vpn.credentials import Credentials
from qosctl.dtls.vpn.protocol import VpnProtocol
from qosctl.dtls.vpn.session import Interface


@dataclass(frozen=True)
class ConnectOptions:
    """One connection.

    `url` is https://HOST[:PORT][/path]; `tunnel_name` None lets the kernel choose; `numbering` is called with the first
    free record number of each new epoch; `timeout_s` bounds each step of connecting, in seconds; `reconnect_s` bounds how
    long a session that ended is tried to be had back: 0 for not at all, infinity for as long as it takes. `known` is an
    IP address where the server was the last time: tried where its name does not resolve, or still leads there. `key_life`
    says when keys are renewed though the server did not ask for it.
    """

    url: str
    credentials: Credentials
    trust: Trust = field(default_factory=SystemTrust)
    tunnel_name: str | None = None
    protocol: VpnProtocol = ANYCONNECT
    numbering: Callable[[int], Numbering] = PlainNumbering
    timeout_s: float = 30.0
    reconnect_s: float = math.inf
    known: str | None = None
    key_life: KeyLife = KEY_LIFE


@dataclass(frozen=True)
class ConnectedInfo:
    """A tunnel that is up. `local` and `remote` are the ends of the outer flow; `mtu` is of inner packets; `dtls` is empty
    where nothing comes back over UDP and packets go over TLS, unmarked, until something does.

    `statistics` may be called at any time, from the thread that runs the client or another.
    """

    tunnel: str
    addresses: tuple[Interface, ...]
    mtu: int
    local: Endpoint
    remote: Endpoint
    tls: str
    dtls: str
    server: str
    marked: bool
    statistics: Callable[[], Statistics] = field(repr=False, compare=False)
