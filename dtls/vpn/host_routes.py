"""What a server wants of the machine's routes and DNS. No I/O.

Nothing here is refused: what a server may not ask for is left out and counted, so that a malformed line costs its own
route and no more. Texts become ipaddress objects and names of a strict alphabet; what leaves this module was made by us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from qosctl.bpf.printable import short_line

Address = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network

NETWORKS_MAX = 256
"""Of each list; an HTTP response of ours holds no more lines."""
SERVERS_MAX = 3
"""Name servers; more than these no resolver asks."""
DOMAINS_MAX = 32
_NETWORK = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9.]{1,15})?\Z")  # and no %zone
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}\Z")
_LABEL = r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")
_NEVER = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
        "::/127", "fe80::/10", "ff00::/8", "::ffff:0:0/96",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Routes and DNS. `include` and `exclude` are in the server's order; `domain` and `banner` may be empty.

    `splits` names the IP versions of which the server listed networks, usable or not: they get no default route.
    `discarded` counts what was left out; `idle_s` is 0 for never.
    """

    include: tuple[Net, ...] = ()
    exclude: tuple[Net, ...] = ()
    splits: frozenset[int] = frozenset()
    dns: tuple[Address, ...] = ()
    nbns: tuple[Address, ...] = ()
    domain: str = ""
    split_dns: tuple[str, ...] = ()
    idle_s: int = 0
    banner: str = ""
    discarded: int = 0


def networks(texts: Iterable[str], *, default: bool = False) -> tuple[Net, ...]:
    """Return the networks that a VPN may route, in order; with `default` all of a family (0.0.0.0/0) too."""
    found: list[Net] = []
    for text in texts:
        try:
            net = ip_network(text, strict=False) if _NETWORK.match(text) else None
        except ValueError:
            continue
        if net is not None and _routable(net, default=default) and len(found) < NETWORKS_MAX:
            found.append(net)
    return tuple(found)


def servers(texts: Iterable[str]) -> tuple[Address, ...]:
    """Return the addresses that can be a server beyond the tunnel, each once, SERVERS_MAX at most."""
    found: list[Address] = []
    for text in texts:
        try:
            address = ip_address(text.strip()) if _ADDRESS.match(text.strip()) else None
        except ValueError:
            continue
        if address is not None and address not in found and _routable(ip_network(address), default=False):
            found.append(address)
    return tuple(found[:SERVERS_MAX])


def domains(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the domain names, without a final dot, DOMAINS_MAX at most."""
    names = (text.strip().removesuffix(".") for text in texts)
    return tuple(name for name in names if _DOMAIN.match(name))[:DOMAINS_MAX]


def banner(text: str) -> str:
    """Return a line that is safe to print, even by a shell whose echo knows escape sequences."""
    return short_line(text).replace("\\", "/")


def spare(nets: Iterable[Net], server: Address) -> tuple[Net, ...]:
    """Return the networks without a route to the server itself, through which its own tunnel would run."""
    return tuple(net for net in nets if net != ip_network(server))


def _routable(net: Net, *, default: bool) -> bool:
    if net.prefixlen == 0:
        return default
    # What only contains such a network is not the way to it: the kernel takes the longer prefix.
    return not any(net.version == never.version and net.subnet_of(never) for never in _NEVER)  # type: ignore[arg-type]
