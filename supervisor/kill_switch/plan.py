"""What the kernel is to hold for one tunnel, from what its session gives. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.outer_sockets import MARK
from qosctl.dtls.vpn.host_routes import Net, spare

FIRST_TABLE: Final = 24740
SLOTS: Final = 16
"""Tunnels at a time."""
_LEVELS = 8
"""Networks within networks that are told apart; those nested deeper share the last."""
PREFERENCES: Final = range(FIRST_TABLE - (4 + 2 * _LEVELS) * SLOTS, FIRST_TABLE + 8 * SLOTS)
MAIN: Final = 254  # RT_TABLE_MAIN
_BROAD = {4: 7, 6: 15}
"""Routes as short as these are never believed: a pair of halves is a default route by another name."""
_NO_DEFAULT = 1
"""The shortest route of a tunnel's table that counts for all packets: its default route is for answers of its own."""


class Kind(enum.Enum):
    """What becomes of packets to a network; the value is the route's metric."""

    OUTSIDE = 1
    TUNNEL = 2
    BLOCKED = 0xFFFF_FFFF


@dataclass(frozen=True)
class Route:
    """One route of the tunnel's own table."""

    net: Net
    kind: Kind


@dataclass(frozen=True)
class Rule:
    """One rule. `table` None makes its packets unreachable.

    `shorter_than` is the shortest prefix that is believed of what the table says, 0 for any; `device_group` the group of
    devices that no believed way leads to, 0 for none. `to` and `source` None are for every packet, `mark` 0 for marked and
    unmarked ones.
    `came_by` is the device that packets came in by, empty for any and for none; without `table` they are dropped then, and
    their sender is not told.
    """

    version: int
    preference: int
    table: int | None
    shorter_than: int = 0
    device_group: int = 0
    to: Net | None = None
    source: Net | None = None
    mark: int = 0
    came_by: str = ""


@dataclass(frozen=True)
class Inside:
    """What belongs inside, of one IP version, what of that does not, and the addresses that `tunnel` alone has."""

    nets: tuple[Net, ...]
    outside: tuple[Net, ...]
    own: tuple[Net, ...]
    tunnel: str

    @property
    def everything(self) -> bool:
        """Whether all of this IP version belongs inside."""
        return any(net.prefixlen == 0 for net in self.nets)

    @property
    def believed(self) -> int:
        """The shortest route of the tunnel's table that counts for packets from anywhere."""
        return 0 if self.everything else _NO_DEFAULT


@dataclass(frozen=True)
class Plan:
    """What there is to be in the kernel for one tunnel."""

    rules: frozenset[Rule]
    routes: frozenset[Route]


def inside(given: HostConfig, elsewhere: Container[IPv4Address | IPv6Address] = ()) -> dict[int, Inside]:
    """Return what belongs inside by IP version: of a version that the session has no address of, nothing does.

    What comes from an address that is `elsewhere` on the machine, too, may have nothing to do with the tunnel.
    """
    found: dict[int, Inside] = {}
    for version in {address.version for address in given.addresses}:
        named = [net for net in spare(given.network.include, given.gateway) if net.version == version]
        own = [address.network for address in given.addresses if address.version == version]
        nets = [*named, *own] if version in given.network.splits else [_everything(version)]
        outside = [net for net in given.network.exclude if net.version == version and net not in nets]
        hosts = [address.ip for address in given.addresses if address.version == version and address.ip not in elsewhere]
        found[version] = Inside(tuple(nets), tuple(outside), tuple(map(ip_network, hosts)), given.tunnel)
    return found


def plan(
    slot: int,
    held: Mapping[int, Inside],
    carried: Iterable[int],
    gateway: IPv4Address | IPv6Address,
    *,
    marked: bool = True,
) -> Plan:
    """Return what holds `held` for a tunnel that carries the IP versions `carried`, and whose server is `gateway`.

    Unless `marked`, all that goes to the server is taken for the tunnel's own.
    """
    rules, routes, server = set(), set(), ip_network(gateway)
    for version, each in held.items():
        rules |= _rules(slot, version, each) | {_without_an_error(slot, own, each.tunnel) for own in each.own}
        for own in each.own:
            rules |= _from_own(slot, own)
        if each.own and version in carried:
            routes.add(Route(_everything(version), Kind.TUNNEL))
        if marked:  # whatever the server's name leads to by now
            rules.add(Rule(version, _first(slot), MAIN, device_group=table_of(slot), mark=MARK))
        for net in each.nets:
            routes.add(Route(net, Kind.BLOCKED))
            if version in carried:
                routes.add(Route(net, Kind.TUNNEL))
        routes |= {Route(net, Kind.OUTSIDE) for net in each.outside}
    if gateway.version in held and not gateway.is_link_local:  # of which main has a route that is long enough
        rules |= _to_server(slot, server, held[gateway.version].believed, marked=marked)
    return Plan(frozenset(rules), frozenset(routes))


def table_of(slot: int) -> int:
    """Return the table of a slot, which is the group of its tunnel device, too."""
    return FIRST_TABLE + slot


def slot_of(preference: int) -> int:
    """Return the slot that a rule of ours belongs to."""
    return (preference - FIRST_TABLE) // 2 % SLOTS


def _rules(slot: int, version: int, inside: Inside) -> set[Rule]:
    shortest = max(min(net.prefixlen for net in inside.nets), _BROAD[version])
    # What names networks comes before what takes everything, whichever tunnel came first.
    preference = FIRST_TABLE + 2 * slot + (2 * SLOTS if inside.everything else 0)
    return _for_longer(slot, [net for net in inside.nets if net.prefixlen > shortest]) | {
        Rule(version, preference, MAIN, shorter_than=shortest + 1),
        Rule(version, preference + 1, table_of(slot), shorter_than=inside.believed),
    }


def _for_longer(slot: int, nets: Iterable[Net]) -> set[Rule]:
    """Let no route of main be believed for a network that is as short as this one: the shortest does not speak for all.

    What lies within another network comes before it, or that one's rule would speak for both.
    """
    rules: set[Rule] = set()
    levels: dict[Net, int] = {}
    for net in sorted(set(nets), key=lambda net: -net.prefixlen):
        within = (level for other, level in levels.items() if other.subnet_of(net))  # type: ignore[arg-type]  # one version
        levels[net] = min(1 + max(within, default=-1), _LEVELS - 1)
        preference = PREFERENCES.start + 2 * SLOTS * (2 + levels[net]) + 2 * slot
        rules.add(Rule(net.version, preference, MAIN, shorter_than=net.prefixlen + 1, to=net))
        rules.add(Rule(net.version, preference + 1, table_of(slot), to=net))
    return rules


def _without_an_error(slot: int, own: Net, tunnel: str) -> Rule:
    """Drop what comes out of the tunnel for an address that its device has not yet, or no more.

    The kernel would tell its sender that there is no way, and quote what it could not deliver. Where no network of the
    server's holds the sender, that error goes outside.
    """
    return Rule(own.version, _first(slot) + 1, None, to=own, came_by=tunnel)


def _from_own(slot: int, own: Net) -> set[Rule]:
    """Send what has the tunnel's address as its source into the tunnel, or nowhere, but to the machine's LANs.

    It answers what came through the tunnel, as the kernel's own errors do, which quote that; or a program has bound to the
    address. In clear nobody would answer it. `unreachable` alone would make the kernel drop what comes from no network of
    the server's, where it asks for the way back in any way (rp_filter = 2): errors of routers behind the server, too.
    """
    version, preference = own.version, FIRST_TABLE + 4 * SLOTS + 2 * slot
    return {
        Rule(version, preference, MAIN, shorter_than=_BROAD[version] + 1, source=own),
        Rule(version, preference + 1, table_of(slot), source=own),
        Rule(version, preference + 2 * SLOTS, None, source=own),
    }


def _to_server(slot: int, server: Net, believed: int, *, marked: bool) -> set[Rule]:
    version, preference, table = server.version, _first(slot), table_of(slot)
    if not marked:
        return {
            Rule(version, preference, MAIN, device_group=table, to=server),
            Rule(version, preference + 1, None, to=server),
        }
    return {
        Rule(version, preference + 1, None, to=server, mark=MARK),
        # The script sets a route to the server in main, which is for the tunnel's own packets alone.
        Rule(version, preference + 2 * SLOTS, table, shorter_than=believed, to=server),
    }


def _first(slot: int) -> int:
    """Return the preference of a slot's first rule: those for the tunnel's own packets come before all others."""
    return PREFERENCES.start + 2 * slot


def _everything(version: int) -> Net:
    return ip_network("0.0.0.0/0" if version == 4 else "::/0")
