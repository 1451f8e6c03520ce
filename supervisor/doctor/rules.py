"""The rules and routes of this very machine that look at the byte, and whether they mean what their author thought.

Each is made again in a throw-away laboratory and shown all 256 bytes: what it matches there is what it matches here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qosctl.bpf.dscp import EF, Dscp, TrafficClass
from qosctl.supervisor.doctor import probe_routing
from qosctl.supervisor.doctor.finding import Finding, passed, warned
from qosctl.supervisor.doctor.host_snapshot import Selector
from qosctl.supervisor.doctor.matrix_row import matched_ecn, matched_text
from qosctl.supervisor.doctor.netlink import attribute
from qosctl.supervisor.doctor.probe_netns import ProbeNetns

Kind = tuple[int, bool, int, int | None]


def matches(laboratory: ProbeNetns, selectors: Sequence[Selector]) -> dict[Kind, frozenset[int]]:
    """Return what each kind of selector matches; a kind is (family, route, tos, dscp)."""
    found: dict[Kind, frozenset[int]] = {}
    for selector in selectors:
        kind = _kind(selector)
        if kind in found:
            continue
        if selector.route:
            _reply, found[kind] = probe_routing.try_route(laboratory, selector.family, selector.tos)
        else:
            more = [attribute(probe_routing.FRA_DSCP, bytes([selector.dscp]))] if selector.dscp is not None else []
            _reply, found[kind] = probe_routing.try_rule(laboratory, selector.family, selector.tos, *more)
    return found


def check(selectors: Sequence[Selector], found: Mapping[Kind, frozenset[int]]) -> Iterator[Finding]:
    """Yield a finding for each selector, and one for each that the other family lacks."""
    if not selectors:
        yield passed("rules", "no rule or route of this machine looks at TOS or DSCP")
    for selector in selectors:
        yield _meaning(selector, found[_kind(selector)])
        if not selector.route and not any(_counterpart(selector, other) for other in selectors):
            other_family = 10 - selector.family
            yield warned(
                "rules-families", f"{selector}: IPv{other_family} has no such rule",
                "the same class takes different ways in the two families",
                f"ip -{other_family} rule add {_selector_words(selector)} table {selector.table}",
            )  # fmt: skip


def _meaning(selector: Selector, matched: frozenset[int]) -> Finding:
    dscps = {TrafficClass.from_byte(byte).dscp for byte in matched}
    meant = Dscp.of(selector.dscp) if selector.dscp is not None else TrafficClass.from_byte(selector.tos).dscp
    ecn = matched_ecn(matched)
    if not matched:
        return warned(
            "rules", f"{selector} matches no packet at all", "what it was made for takes the ordinary way", _fix(selector)
        )
    if dscps == {meant} and not ecn:
        return passed("rules", f"{selector} matches {meant} and nothing else")
    also = "EF among them" if EF in dscps and meant is not EF else f"besides {meant}"
    return warned(
        "rules", f"{selector} {matched_text(matched)}" + (f"; {ecn}" if ecn else ""),
        f"it routes classes that were not meant, {also}: sockets with such marks change their way; our stamp comes later",
        _fix(selector),
    )  # fmt: skip


def _fix(selector: Selector) -> str:
    value = TrafficClass.from_byte(selector.tos).dscp.value
    if selector.route:
        return f"ip -{selector.family} rule add dscp {value} table N, and the route in that table"
    old = f"ip -{selector.family} rule del priority {selector.priority}"
    return f"{old}; ip -{selector.family} rule add dscp {value} table {selector.table} (Linux 6.13, iproute2 6.13)"


def _selector_words(selector: Selector) -> str:
    return f"dscp {selector.dscp if selector.dscp is not None else TrafficClass.from_byte(selector.tos).dscp.value}"


def _kind(selector: Selector) -> Kind:
    return selector.family, selector.route, selector.tos, selector.dscp


def _counterpart(one: Selector, other: Selector) -> bool:
    return one.family != other.family and not other.route and _selector_words(one) == _selector_words(other)
