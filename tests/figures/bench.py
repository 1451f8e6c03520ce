"""What `make bench` found, as Markdown for people: README.md, docs/performance.md, docs/comparison.md.

Units are in the heads of the tables. A figure that an earlier bench did not take is a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench.sides import OPENCONNECT, OPENCONNECT_PASSTOS, QOSCTL_AUTO, QOSCTL_OFF, QOSCTL_PLAIN

Figures = dict[str, Any]
CALL_ROW = "20-udp-call"
_CLIENTS = {
    OPENCONNECT.name: "openconnect",
    OPENCONNECT_PASSTOS.name: "openconnect --passtos",
    QOSCTL_OFF.name: "qosctl, passtos off",
    QOSCTL_PLAIN.name: "qosctl, passtos on, plain numbering",
    QOSCTL_AUTO.name: "qosctl, passtos on",
}
_NONE = 0.05
"""Mbit/s that are shown as 0.0."""
_COSTS = (
    ("goodput up, the sender offers all it can (1,200 bytes, DSCPs mixed)", ("overload", "goodput_mbit"), "Mbit/s"),
    ("CPU of the client for each of these packets", ("overload", "cpu_us_per_packet"), "us"),
    ("goodput down, the sender offers all it can", ("downlink", "overload", "goodput_mbit"), "Mbit/s"),
    ("CPU of the client for each of these packets", ("downlink", "overload", "cpu_us_per_packet"), "us"),
    ("best goodput up at any offered load", ("goodput_mbit",), "Mbit/s"),
    ("best goodput down at any offered load", ("downlink", "goodput_mbit"), "Mbit/s"),
    ("CPU of the client for a packet up, 15,000 a second", ("equal_load", "cpu_us_per_packet"), "us"),
    ("CPU of the client for a packet down, 15,000 a second", ("downlink", "equal_load", "cpu_us_per_packet"), "us"),
    ("one TCP flow up", ("tcp_up", "goodput_mbit"), "Mbit/s"),
    ("one TCP flow down", ("tcp_down", "goodput_mbit"), "Mbit/s"),
    ("idle round trip, median", ("idle_rtt_us", "p50"), "us"),
    ("idle round trip, 99th percentile", ("idle_rtt_us", "p99"), "us"),
)
_STAMP = {
    "off": "passtos is off",
    "other": "no UDP",
    "no_flow": "UDP that is no tunnel's",
    "no_mark": "a record without a mark",
    "hit_ipv4_unchanged": "a record that carries the right DSCP already, IPv4",
    "hit_ipv6_unchanged": "the same, IPv6",
    "hit_ipv4": "a record that is stamped, IPv4",
    "hit_ipv6": "the same, IPv6",
    "hit_ipv4_100_flows": "stamped, with 100 flows",
    "hit_ipv4_10000_flows": "stamped, with 10,000 flows",
}
_SENDS = {
    "unmarked": "no mark",
    "program_attached_passtos_off": "qosctl attached, passtos off",
    "program_attached_passtos_on": "qosctl, passtos on: one store a record, and the program",
    "nft_rule_one_class_for_all": "an nft rule, one DSCP for all",
    "setsockopt_per_change": "setsockopt(IP_TOS) at each change",
    "control_message_per_send": "a control message with each send",
}


def machine(bench: Figures) -> str:
    """Say in a sentence what was measured on, and when."""
    if "machine" not in bench:
        return f"Measured on Linux {bench['kernel'].partition('-')[0]} by an earlier bench, with the numbering of then."
    of = bench["machine"]
    caches = [f"{size} {level.split()[0]}" for level, size in of["cache"].items() if level.startswith("L3")]
    parts = (
        of["cpu"],
        f"{of['cores']} cores",
        *caches,
        f"Linux {bench['kernel'].partition('-')[0]}",
        bench.get("measured", ""),
    )
    return f"Measured on {', '.join(filter(None, parts))}."


def calls(bench: Figures, clients: Iterable[str] = _CLIENTS) -> str:
    """Return the call beside bulk datagrams at 20 Mbit/s, a line for each client."""
    known = {each["client"]: each for each in bench["bottleneck"] if each["row"] == CALL_ROW}
    lines = [
        "| 20 Mbit/s, 40 offered | call p99 | call lost | bulk arrived | dropped by the server as replays |",
        "|---" * 5 + "|",
    ]
    for name in clients:
        each = known[name]
        bulk = f"{each['bulk_mbit']:.1f} Mbit/s"
        cells = (
            _CLIENTS[name],
            _ms(each["call_p99_ms"]),
            _share(each["call_lost"], each["call_sent"]),
            f"**{bulk}**" if each["bulk_mbit"] < _NONE else bulk,
            _share(each["replay_dropped"], each["outer_received"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", machine(bench)])


def window(bench: Figures) -> str:
    """Return the same for the three clients that a comparison needs."""
    return calls(bench, (OPENCONNECT.name, OPENCONNECT_PASSTOS.name, QOSCTL_AUTO.name))


def costs(bench: Figures) -> str:
    """Return what the client costs beside openconnect, in three columns."""
    return "\n".join([_beside(bench["tunnel"], _COSTS), "", machine(bench)])


def cut_wire(bench: Figures) -> str:
    """Return the same where each packet of a batch is cut in the client's time."""
    return _beside({name: bench["tunnel"][name]["cut_wire"] for name in ("qosctl", "openconnect")}, _COSTS)


def _beside(sides: Figures, wanted: Sequence[tuple[str, tuple[str, ...], str]]) -> str:
    lines = ["| quantity | qosctl | openconnect --passtos |", "|---" * 3 + "|"]
    for what, path, unit in wanted:
        cells = [_at(sides[name], path) for name in ("qosctl", "openconnect")]
        if any(cell is not None for cell in cells):
            lines.append(f"| {what} | {' | '.join(_figure(cell, unit) for cell in cells)} |")
    return "\n".join(lines)


def _at(figures: Figures, path: tuple[str, ...]) -> float | None:
    found: Any = figures
    for name in path:
        found = found.get(name, {})
    return None if found == {} else float(found)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} {unit}" if unit == "Mbit/s" or value >= 20 else f"{value:.1f} {unit}"


def stamp(bench: Figures) -> str:
    """Return what the program costs a packet, by what the packet is."""
    return _single(
        "packet | ns, net of an empty program", ((_STAMP[name], f"{bench['stamp_ns'][name]:.0f}") for name in _STAMP)
    )


def program(bench: Figures) -> str:
    """Return in sentences what the program and a mark cost."""
    ns = {name: f"{value:.0f} ns" for name, value in bench["stamp_ns"].items()}
    us = {name: f"{value - bench['send_us']['unmarked']:.1f} us" for name, value in bench["send_us"].items()}
    marked, rule = us["program_attached_passtos_on"], us["nft_rule_one_class_for_all"]
    message, option = us["control_message_per_send"], us["setsockopt_per_change"]
    return (
        f"- The program takes {ns['hit_ipv4']} for a record that it stamps ({ns['hit_ipv4_10000_flows']} with\n"
        f"  10,000 flows), {ns['other']} to {ns['no_flow']} for other traffic, and {ns['off']} while passtos is off,\n"
        "  net of an empty program.\n"
        f"- A marked packet costs a Python sender {marked} more than one without a mark. By an nft rule it costs\n"
        f"  {rule}, by a control message {message}, and by `setsockopt` {option}."
    )


def sends(bench: Figures) -> str:
    """Return what a mark costs a sender, by the way of marking."""
    known = bench["send_us"]
    bare = known["unmarked"]
    found = ((text, f"{known[name]:.2f} | {known[name] - bare:+.2f}") for name, text in _SENDS.items())
    return _single("how a packet is marked, each unlike the one before | us a send, from Python | beside no mark", found)


def _single(head: str, cells: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        [f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {name} | {value} |" for name, value in cells)]
    )


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 20 else f"{value:.1f} ms"


def _share(part: float, whole: float) -> str:
    percent = 100 * part / max(1, whole)
    if not part:
        return "0"
    return "< 0.1 %" if percent < 0.1 else f"{percent:.0f} %" if percent >= 20 else f"{percent:.1f} %"
