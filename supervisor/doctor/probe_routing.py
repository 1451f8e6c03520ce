"""Rules and routes that look at the byte: what the kernel accepts, and what then matches real packets."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator

from qosctl.bpf.dscp import EF, Ecn, TrafficClass
from qosctl.supervisor.doctor import probe_netns
from qosctl.supervisor.doctor.matrix_row import MatrixRow, matched_ecn, matched_text, refused_text
from qosctl.supervisor.doctor.netlink import Reply, attribute
from qosctl.supervisor.doctor.probe_netns import CHOSEN, ProbeNetns
from qosctl.supervisor.doctor.tos_senders import (
    MEANS,
    PEERS,
    on_wire,
    settled,
    udp_by_message,
    udp_by_option,
    udp_connected,
)

FRA_DSCP = 25  # linux/fib_rules.h, Linux 6.13
_EF_BYTE = TrafficClass.of(EF, Ecn.NOT_ECT).byte
LOW_DELAY_THROUGHPUT = 0x18  # RFC 1349: two bits that lie in the middle of today's DSCP
THROUGHPUT = 0x08

_TOPIC = "Rules and routes"
_MASKED = "only the old TOS bits (0x1c) count on IPv4: the rule also catches EF and every other class that shares them"
_WHOLE_BYTE = "one script cannot set both families up: today's classes need the `dscp` selector on IPv4"
_ROUTE_DEAD = "a route that the kernel takes and never uses; IPv6 has no such routes"
_ROUTE_MASKED = "the route also catches EF and every other class with the same old TOS bits; IPv6 has no such routes"


def probe(laboratory: ProbeNetns) -> Iterator[MatrixRow]:
    """Yield the rows about rules and routes."""
    yield _selector(laboratory, "rule-tos-ef", f"ip rule tos {_EF_BYTE:#04x} (EF)", _EF_BYTE, _WHOLE_BYTE)
    for byte in (LOW_DELAY_THROUGHPUT, THROUGHPUT):
        yield _selector(laboratory, f"rule-tos-{byte:#04x}", f"ip rule tos {byte:#04x}", byte, _MASKED)
    yield _selector(laboratory, "rule-tos-ecn", f"ip rule tos {_EF_BYTE | 1:#04x} (ECN bits)", _EF_BYTE | 1, "")
    yield _dscp_selector(laboratory)
    yield MatrixRow("rule-dscp-ip", _TOPIC, "`ip rule add dscp 46` of the installed iproute2", _ip(4), _ip(6))
    yield MatrixRow("rule-dscp-pyroute2", _TOPIC, "FRA_DSCP in the installed pyroute2", *(2 * [_pyroute2()]))
    for byte, breaks in ((_EF_BYTE, _ROUTE_DEAD), (LOW_DELAY_THROUGHPUT, _ROUTE_MASKED)):
        yield _route(laboratory, byte, breaks)
    yield from _ways_of_asking(laboratory)


def matched_by(laboratory: ProbeNetns, family: int) -> frozenset[int]:
    """Return the bytes of the datagrams that leave by the chosen wire, sent on this machine."""
    return on_wire(settled(lambda: udp_by_option(laboratory.sniffer, PEERS[family], MEANS[family])), CHOSEN)


def try_rule(laboratory: ProbeNetns, family: int, byte: int, *more: bytes) -> tuple[Reply, frozenset[int]]:
    """Make a rule, see what it matches, and take it back."""
    return _try(
        laboratory,
        family,
        lambda: probe_netns.add_rule(family, byte, *more),
        lambda: probe_netns.delete_rule(family, byte, *more),
    )


def try_route(laboratory: ProbeNetns, family: int, byte: int) -> tuple[Reply, frozenset[int]]:
    """Make a route, see what it matches, and take it back."""
    return _try(
        laboratory, family, lambda: probe_netns.add_route(family, byte), lambda: probe_netns.delete_route(family, byte)
    )


def _try(
    laboratory: ProbeNetns, family: int, add: Callable[[], Reply], delete: Callable[[], Reply]
) -> tuple[Reply, frozenset[int]]:
    reply = add()
    if reply.error:
        return reply, frozenset()
    try:
        return reply, matched_by(laboratory, family)
    finally:
        delete()


def _said(reply: Reply, matched: frozenset[int]) -> str:
    return refused_text(reply) if reply.error else matched_text(matched)


def _row(key: str, what: str, tried: dict[int, tuple[Reply, frozenset[int]]], breaks: str) -> MatrixRow:
    said = {family: _said(*result) for family, result in tried.items()}
    ecn = "; ".join(filter(None, (matched_ecn(matched) for _, matched in tried.values())))
    differ = said[4] != said[6] or bool(ecn)
    return MatrixRow(key, _TOPIC, what, said[4], said[6], ecn, breaks if differ else "")


def _selector(laboratory: ProbeNetns, key: str, what: str, byte: int, breaks: str) -> MatrixRow:
    return _row(key, what, {family: try_rule(laboratory, family, byte) for family in (4, 6)}, breaks)


def _dscp_selector(laboratory: ProbeNetns) -> MatrixRow:
    """A kernel that does not know the attribute ignores it, and the rule then matches every packet."""
    tried = {f: try_rule(laboratory, f, 0, attribute(FRA_DSCP, bytes([EF.value]))) for f in (4, 6)}
    exact = all(not reply.error and len(matched) == len(Ecn) for reply, matched in tried.values())
    row = _row("rule-dscp", "ip rule dscp EF (FRA_DSCP)", tried, "")
    breaks = (
        "" if exact else "this kernel has no selector for a DSCP, and may take the rule for one that matches everything"
    )
    return MatrixRow(row.key, row.topic, row.what, row.ipv4, row.ipv6, row.ecn, breaks)


def _route(laboratory: ProbeNetns, byte: int, breaks: str) -> MatrixRow:
    tried = {family: try_route(laboratory, family, byte) for family in (4, 6)}
    return _row(f"route-tos-{byte:#04x}", f"ip route tos {byte:#04x}", tried, breaks)


def _ip(family: int) -> str:
    """Try the tool in the throw-away namespace; the rule matches nothing anybody sends."""
    tool = shutil.which("ip")
    if tool is None:
        return NO_TOOL
    words = [tool, f"-{family}", "rule", "add", "dscp", "46", "table", "101", "priority", "99"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=5)
    if done.returncode == 0:
        subprocess.run([tool, f"-{family}", "rule", "del", "priority", "99"], check=False, timeout=5, capture_output=True)
    return "can set it" if done.returncode == 0 else "cannot set it"


NO_TOOL = "not installed"


def _pyroute2() -> str:
    from pyroute2.netlink.rtnl.fibmsg import fibmsg  # noqa: PLC0415 - a tenth of a second, for the matrix alone

    known = any(name == "FRA_DSCP" for name, *_ in fibmsg.nla_map)
    return "can set it" if known else "cannot set it"


def _ways_of_asking(laboratory: ProbeNetns) -> Iterator[MatrixRow]:
    """Whether the byte decides on the route whichever way it was asked for."""
    topic = "Which route a socket takes"
    ways = (
        ("route-by-option", "option set, then sendto", udp_by_option),
        ("route-by-message", "control message", udp_by_message),
        ("route-by-connected-option", "option set on a connected socket that has sent before", udp_connected),
    )
    for key, what, send in ways:
        said, ecn = {}, []
        for family in (4, 6):
            probe_netns.add_rule(family, THROUGHPUT)
            matched = on_wire(settled(functools.partial(send, laboratory.sniffer, PEERS[family], MEANS[family])), CHOSEN)
            probe_netns.delete_rule(family, THROUGHPUT)
            said[family] = matched_text(matched) if matched else "keeps its route"
            ecn.append(matched_ecn(matched))
        differ = said[4] != said[6]
        breaks = "a program that marks through its socket can move to another route by doing so" if differ else ""
        row_ecn = "; ".join(filter(None, ecn))
        yield MatrixRow(key, topic, f"UDP, rule tos {THROUGHPUT:#04x}: {what}", said[4], said[6], row_ecn, breaks)
