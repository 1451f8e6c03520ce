"""Rules and routes in the kernel (rtnetlink: linux/fib_rules.h, linux/rtnetlink.h): what of ours is there, and changing it.

What is new comes before what is old goes, so that a change leaves no moment without either.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from qosctl.dtls.transport.outer_sockets import way_to
from qosctl.dtls.transport.pyroute2_by_need import IPRoute, NetlinkError
from qosctl.dtls.transport.rtnetlink import conversation
from qosctl.dtls.vpn.host_routes import Net
from qosctl.supervisor.kill_switch.plan import PREFERENCES, Kind, Plan, Route, Rule, slot_of, table_of

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_KERNELS_OWN = 2  # RTPROT_KERNEL
_TYPES = {Kind.OUTSIDE: "throw", Kind.TUNNEL: "unicast", Kind.BLOCKED: "unreachable"}
_UNICAST = 1  # RTN_UNICAST
_LEARNT = 0x200  # RTM_F_CLONED: what the kernel has learnt of the way to one address
_NO_LIMIT = 0xFFFF_FFFF  # as the kernel shows prefix lengths and groups that nobody has named
_FILTERS, _STRICT = Path("/proc/sys/net/ipv4/conf"), 1
_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})


def enforce(slot: int, wanted: Plan, device: int) -> list[int]:
    """Make it so for the tunnel device with index `device`, 0 for none. OSError where the kernel refuses.

    Returns the IP versions whose packets do not get into the tunnel, because the device takes no routes: it is down, or
    that IP version is switched off on it.
    """
    refused: list[int] = []
    with _asking() as ip:
        if device:
            _put_into_group(ip, device, table_of(slot))
        for version in _versions():
            routes = [route for route in wanted.routes if route.net.version == version]
            there = _routes(ip, version, slot, device)
            if not _add_routes(ip, slot, sorted(set(routes) - there, key=_last_the_tunnel), device):
                refused.append(version)
            rules = {rule for rule in wanted.rules if rule.version == version}
            old = _rules(ip, version, slot)
            for rule in sorted(rules - old, key=lambda rule: rule.preference):
                _rule(ip, "add", rule)
            for rule in old - rules:
                _rule(ip, "del", rule)
            for route in there - set(routes):
                _route(ip, "del", slot, route, device)
        if wanted.rules and 6 in _versions():
            _forget_path_mtus(ip)
    return refused


def lift(slot: int) -> None:
    """Take all of it away. OSError where the kernel refuses."""
    enforce(slot, Plan(frozenset(), frozenset()), 0)


def held() -> dict[int, list[Net]]:
    """Return what is held by each slot that has rules: the networks, none where only rules are left."""
    with _asking() as ip:
        slots = {slot for version in _versions() for slot in _slots(ip, version)}
        return {
            slot: [route.net for version in _versions() for route in _sorted_blocked(_routes(ip, version, slot, 0))]
            for slot in sorted(slots)
        }


def carried(slot: int) -> bool:
    """Whether a tunnel device is there to take what is held."""
    with _asking() as ip:
        return any(message["type"] == _UNICAST for version in _versions() for message in _table(ip, version, slot))


def addresses_beside(device: int) -> set[IPv4Address | IPv6Address]:
    """Return the addresses of all devices but the one with index `device`."""
    with _asking() as ip:
        found = [each for each in ip.get_addr() if each["index"] != device]
    return {ip_address(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")) for each in found}


def checks_sources(gateway: IPv4Address | IPv6Address) -> str | None:
    """Return the device on the tunnel's way that drops what comes from where nothing unmarked would go; None for none.

    It asks for the way back without the mark (net.ipv4.conf.*.rp_filter = 1, RFC 3704 section 2.2), and IPv4 alone. Where
    that is not to be seen, without /proc say, the kernel's default counts, which is 0.
    """
    if gateway.version == 6:
        return None
    try:
        way = way_to(str(gateway))
        device = socket.if_indextoname(way.device) if way is not None else "default"
        strictest = max(int((_FILTERS / each / "rp_filter").read_text()) for each in ("all", device))
    except OSError:
        return None
    return device if way is not None and strictest == _STRICT else None


def _sorted_blocked(routes: Iterable[Route]) -> list[Route]:
    return sorted((route for route in routes if route.kind is Kind.BLOCKED), key=lambda route: route.net)


def _last_the_tunnel(route: Route) -> int:
    """What the device may refuse comes last."""
    return 1 if route.kind is Kind.TUNNEL else 0


def _add_routes(ip: IPRoute, slot: int, routes: list[Route], device: int) -> bool:
    """Add them; False where the device would not take its own."""
    for route in routes:
        try:
            _route(ip, "add", slot, route, device)
        except NetlinkError:
            if route.kind is not Kind.TUNNEL:
                raise
            return False
    return True


def _route(ip: IPRoute, do: str, slot: int, route: Route, device: int) -> None:
    words: dict[str, Any] = {
        "family": _FAMILIES[route.net.version],
        "dst": str(route.net),
        "type": _TYPES[route.kind],
        "table": table_of(slot),
        "priority": route.kind.value,
        "proto": _KERNELS_OWN,
    }
    if route.kind is Kind.TUNNEL and do == "add":
        words["oif"] = device
    _change(ip.route, do, words)


def _rule(ip: IPRoute, do: str, rule: Rule) -> None:
    words: dict[str, Any] = {
        "family": _FAMILIES[rule.version],
        "priority": rule.preference,
        "protocol": _KERNELS_OWN,
    }
    if rule.table is not None:
        words["table"] = rule.table
    else:
        words["action"] = "blackhole" if rule.came_by else "unreachable"
    if rule.came_by:
        words["iifname"] = rule.came_by
    if rule.shorter_than:
        words["suppress_prefixlen"] = rule.shorter_than - 1
    if rule.device_group:
        words["suppress_ifgroup"] = rule.device_group
    if rule.mark:
        words["fwmark"] = rule.mark
    for end, net in (("dst", rule.to), ("src", rule.source)):
        if net is not None:
            words |= {end: str(net.network_address), f"{end}_len": net.prefixlen}
    _change(ip.rule, do, words)


def _change(ask: Any, do: str, words: dict[str, Any]) -> None:
    """Add what may be there, delete what may be gone."""
    try:
        ask(do, **words)
    except NetlinkError as error:
        done = {errno.EEXIST} if do == "add" else _GONE
        if error.code not in done:
            raise


def _routes(ip: IPRoute, version: int, slot: int, device: int) -> set[Route]:
    """Return the routes of a slot's table; one into another device than `device` is none of these."""
    kinds = {kind.value: kind for kind in Kind}
    found = set()
    for message in _table(ip, version, slot):
        kind = kinds.get(message.get_attr("RTA_PRIORITY"))
        if kind is not None and (kind is not Kind.TUNNEL or not device or message.get_attr("RTA_OIF") == device):
            found.add(Route(_net(version, message.get_attr("RTA_DST"), message["dst_len"]), kind))
    return found


def _table(ip: IPRoute, version: int, slot: int) -> list[Any]:
    table = table_of(slot)
    found = ip.get_routes(family=_FAMILIES[version], table=table)
    return [each for each in found if each.get_attr("RTA_TABLE") == table and not each["flags"] & _LEARNT]


def _rules(ip: IPRoute, version: int, slot: int) -> set[Rule]:
    return {rule for rule in _all_rules(ip, version) if slot_of(rule.preference) == slot}


def _slots(ip: IPRoute, version: int) -> set[int]:
    return {slot_of(rule.preference) for rule in _all_rules(ip, version)}


def _all_rules(ip: IPRoute, version: int) -> Iterator[Rule]:
    for message in ip.get_rules(family=_FAMILIES[version]):
        preference = message.get_attr("FRA_PRIORITY")
        if preference in PREFERENCES and message.get_attr("FRA_PROTOCOL") == _KERNELS_OWN:
            suppressed, group = (_limit(message.get_attr(f"FRA_SUPPRESS_{what}")) for what in ("PREFIXLEN", "IFGROUP"))
            to, source = message.get_attr("FRA_DST"), message.get_attr("FRA_SRC")
            yield Rule(
                version,
                preference,
                message.get_attr("FRA_TABLE") or None,
                shorter_than=0 if suppressed is None else suppressed + 1,
                device_group=group or 0,
                to=None if to is None else _net(version, to, message["dst_len"]),
                source=None if source is None else _net(version, source, message["src_len"]),
                mark=message.get_attr("FRA_FWMARK") or 0,
                came_by=message.get_attr("FRA_IIFNAME") or "",
            )


def _limit(value: int | None) -> int | None:
    return None if value in {None, _NO_LIMIT} else value


def _net(version: int, address: str | None, length: int) -> Net:
    return ip_network(f"{address or ('0.0.0.0' if version == 4 else '::')}/{length}")


def _forget_path_mtus(ip: IPRoute) -> None:
    """Have the kernel learn IPv6's path MTUs and redirects anew.

    It keeps each as a route to one address beside the route that it is of, and so it counts as long enough to be believed
    (fib6_rule_suppress() in net/ipv6/fib6_rules.c). With the rules there, none is made for what belongs inside.
    """
    for message in ip.get_routes(family=socket.AF_INET6):
        if not message["flags"] & _LEARNT:
            continue
        words = {"dst": f"{message.get_attr('RTA_DST')}/{message['dst_len']}", "table": message.get_attr("RTA_TABLE")}
        gateway, device = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_OIF")
        words |= {"gateway": gateway} if gateway else {}
        _change(ip.route, "del", {"family": socket.AF_INET6, "oif": device, "flags": _LEARNT, **words})


def _put_into_group(ip: IPRoute, device: int, group: int) -> None:
    (link,) = ip.get_links(device)
    if link.get_attr("IFLA_GROUP") != group:
        ip.link("set", index=device, group=group)


def _versions() -> list[int]:
    """Return the IP versions that this kernel has: nothing leaves by one that it has not. No /proc is asked, or needed."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return [4]
    return [4, 6]


@contextmanager
def _asking() -> Iterator[IPRoute]:
    """Have a conversation, whose refusals are OSErrors."""
    try:
        with conversation() as ip:
            yield ip
    except NetlinkError as error:
        raise OSError(error.code, str(error.args[1]) if len(error.args) > 1 else "refused") from error
