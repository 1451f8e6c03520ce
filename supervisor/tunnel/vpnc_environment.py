"""The contract of vpnc-script: the environment that openconnect 9 gives it, from what a session gives. No I/O.

Every value is a number, an address that ipaddress wrote, a domain name of a strict alphabet, or our own; the banner, which
the script prints, is one line of printable characters. Nothing of the server's gets there as it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address, ip_interface
from typing import Any

from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.netdev import NAME_OR_EMPTY
from qosctl.dtls.vpn.host_routes import Net, Network, banner, domains, networks, servers, spare
from qosctl.dtls.vpn.session import ADDRESSES_MAX, Interface, is_tunnels

OURS = re.compile(r"(CISCO_|INTERNAL_IP|VPN|X-)|(reason|TUNDEV|IDLE_TIMEOUT|LOG_LEVEL)\Z")
"""Variables that mean something to the script; those that we were started with must not reach it."""
_LOG_LEVEL_INFO = "1"


def environment(reason: str, given: HostConfig, pid: int, base: Mapping[str, str]) -> dict[str, str]:
    """Return the script's environment. `pid` names this connection to the script; `base` is the environment of ours."""
    network, made = given.network, {key: value for key, value in base.items() if not OURS.match(key)}
    made |= {"reason": reason, "VPNGATEWAY": str(given.gateway), "VPNPID": str(pid), "LOG_LEVEL": _LOG_LEVEL_INFO}
    if given.tunnel:
        made["TUNDEV"] = given.tunnel
    if network.idle_s:
        made["IDLE_TIMEOUT"] = str(network.idle_s)
    for address in given.addresses:
        if address.version == 4:
            made |= {
                "INTERNAL_IP4_ADDRESS": str(address.ip),
                "INTERNAL_IP4_NETMASK": str(address.netmask),
                "INTERNAL_IP4_NETMASKLEN": str(address.network.prefixlen),
                "INTERNAL_IP4_NETADDR": str(address.network.network_address),
            }
        else:
            made |= {"INTERNAL_IP6_ADDRESS": str(address.ip), "INTERNAL_IP6_NETMASK": str(address)}
    texts = {
        "INTERNAL_IP4_MTU": str(given.mtu),  # both families', whatever its name
        "INTERNAL_IP4_DNS": " ".join(map(str, network.dns)),  # likewise
        "INTERNAL_IP4_NBNS": " ".join(map(str, network.nbns)),
        "CISCO_DEF_DOMAIN": network.domain,
        "CISCO_SPLIT_DNS": ",".join(network.split_dns),
        "CISCO_BANNER": network.banner,
    }
    made |= {key: value for key, value in texts.items() if value}
    for version in (4, 6):
        include = [net for net in spare(network.include, given.gateway) if net.version == version]
        exclude = [net for net in network.exclude if net.version == version]
        made |= _list("INC", include, version, named=version in network.splits)
        made |= _list("EXC", exclude, version, named=bool(exclude))
    return made


def _list(kind: str, nets: list[Net], version: int, *, named: bool) -> dict[str, str]:
    """Return the variables of one list. A list that was named and has nothing left in it counts 0: no default route."""
    if not named:
        return {}
    prefix = f"CISCO_SPLIT_{kind}" if version == 4 else f"CISCO_IPV6_SPLIT_{kind}"
    made = {prefix: str(len(nets))}
    for n, net in enumerate(nets):
        made |= {f"{prefix}_{n}_ADDR": str(net.network_address), f"{prefix}_{n}_MASKLEN": str(net.prefixlen)}
        if isinstance(net, IPv4Network):
            made[f"{prefix}_{n}_MASK"] = str(net.netmask)
    return made


def document(given: HostConfig) -> dict[str, Any]:
    """Return what json can carry, for `from_document`."""
    network = given.network
    return {
        "tunnel": given.tunnel,
        "gateway": str(given.gateway),
        "mtu": given.mtu,
        "addresses": [str(address) for address in given.addresses],
        "include": [str(net) for net in network.include],
        "exclude": [str(net) for net in network.exclude],
        "splits": sorted(network.splits),
        "dns": [str(address) for address in network.dns],
        "nbns": [str(address) for address in network.nbns],
        "domain": network.domain,
        "split_dns": list(network.split_dns),
        "idle_s": network.idle_s,
        "banner": network.banner,
        "discarded": network.discarded,
    }


def from_document(read: object) -> HostConfig:
    """Read what `document` made, or what somebody else did: as strictly as the server's words. ValueError."""
    if not isinstance(read, dict):
        raise ValueError("no object")  # noqa: TRY004  (one kind of error for one kind of mistake)
    tunnel = _text(read, "tunnel")
    if not NAME_OR_EMPTY.match(tunnel):
        raise ValueError("no device name")
    gateway = _text(read, "gateway")
    return HostConfig(
        tunnel=tunnel,
        gateway=ip_address(gateway.partition("%")[0]),
        mtu=_number(read, "mtu"),
        addresses=interfaces(read.get("addresses")),
        network=Network(
            include=networks(_texts(read, "include"), default=True),
            exclude=networks(_texts(read, "exclude")),
            splits=frozenset(version for version in (4, 6) if version in _list_of(read, "splits")),
            dns=servers(_texts(read, "dns")),
            nbns=servers(_texts(read, "nbns")),
            domain=" ".join(domains(_text(read, "domain").split(" "))),
            split_dns=domains(_texts(read, "split_dns")),
            idle_s=_number(read, "idle_s"),
            banner=banner(_text(read, "banner")),
            discarded=_number(read, "discarded"),
        ),
    )


def interfaces(texts: object) -> tuple[Interface, ...]:
    """Read the addresses of a tunnel's device, each with its prefix: those that a server may give. ValueError."""
    if not isinstance(texts, list) or len(texts) > ADDRESSES_MAX or not all(isinstance(text, str) for text in texts):
        raise ValueError("no addresses")
    found = tuple(ip_interface(text) for text in texts if "%" not in text)  # a zone is any text, and means nothing here
    if len(found) != len(texts) or not all(is_tunnels(address) for address in found):
        raise ValueError("addresses of no tunnel")
    return found


def _text(read: dict[str, Any], key: str) -> str:
    value = read.get(key)
    if not isinstance(value, str):
        raise ValueError(key)  # noqa: TRY004  (as above)
    return value


def _number(read: dict[str, Any], key: str) -> int:
    value = read.get(key)
    if not isinstance(value, int) or not 0 <= value < 10**9:
        raise ValueError(key)
    return int(value)


def _list_of(read: dict[str, Any], key: str) -> list[Any]:
    value = read.get(key)
    if not isinstance(value, list):
        raise ValueError(key)  # noqa: TRY004  (as above)
    return value


def _texts(read: dict[str, Any], key: str) -> list[str]:
    values = _list_of(read, key)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(key)
    return values
