"""Where the law holds and where it does not: a table of what the cases have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulator.case import Bursts, Case, Flow, Steady, Video
from tests.simulator.run import Outcome

LEAST_LOSSES = 20
"""Records dropped for their numbers from which on a suspicion can be judged."""

Trait = Callable[[Case], bool]


def _has(kind: type) -> Trait:
    return lambda case: any(isinstance(source, kind) for source in case.sources)


def _calm(case: Case) -> bool:
    path = case.path
    odd = path.jitter_ms or path.second_way or path.bulk_lag_ms or path.loss or path.rates or path.codel_ms
    server = case.server
    late = server.mute or server.echo_loss or server.echo_late_ms or server.stop_ms
    return not (odd or path.lanes != "strict" or case.machine.stop_ms or late)


TRAITS: dict[str, Trait] = {
    "all": lambda case: True,  # noqa: ARG005  (a trait that every case has)
    "bursts": _has(Bursts),
    "flows like TCP": _has(Flow),
    "steady datagrams": _has(Steady),
    "video": _has(Video),
    "no classes in the network": lambda case: case.path.lanes == "one",
    "lanes share the link": lambda case: case.path.lanes == "shares",
    "DF first": lambda case: case.path.lanes == "inverted",
    "CoDel": lambda case: bool(case.path.codel_ms),
    "losses": lambda case: bool(case.path.loss),
    "rate changes": lambda case: bool(case.path.rates),
    "jitter that reorders": lambda case: bool(case.path.jitter_ms) and not case.path.in_order,
    "jitter in order": lambda case: bool(case.path.jitter_ms) and case.path.in_order,
    "two ways": lambda case: bool(case.path.second_way),
    "DF on a longer way": lambda case: bool(case.path.bulk_lag_ms),
    "client stops": lambda case: bool(case.machine.stop_ms),
    "... between number and sending": lambda case: bool(case.machine.stop_ms and case.machine.between),
    "slow client": lambda case: case.machine.record_us >= 30,
    "server without echo": lambda case: case.server.mute,
    "echoes lost": lambda case: bool(case.server.echo_loss),
    "echoes late, out of order": lambda case: bool(case.server.echo_late_ms),
    "server stops": lambda case: bool(case.server.stop_ms),
    "window 128": lambda case: case.server.window == 128,
    "window 1,024": lambda case: case.server.window == 1024,
    "none of path, client, server": _calm,
}


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each trait: how many cases have it, and how they fare."""
    lines = [
        f"{'cases with':32} {'number':>6} {'break':>6} {'urgent':>6} {'worst':>6} {'DF':>6} {'worst':>6}"
        f" {'DF lost, plain':>20} {'suspects wrong':>14}"
    ]
    for name, trait in TRAITS.items():
        chosen = [outcome for outcome in outcomes if trait(outcome.case)]
        if chosen:
            lines.append(_line(name, chosen))
    return "\n".join(lines)


def _line(name: str, chosen: Sequence[Outcome]) -> str:
    urgent = [outcome.urgent_excess for outcome in chosen if outcome.urgent_excess > 0]
    bulk = [excess for outcome in chosen if (excess := outcome.classes["DF"].excess) > 0]
    guilty = sum(outcome.guilty for outcome in chosen)
    arrived = max(1, sum(outcome.classes["DF"].arrived for outcome in chosen))
    lost = sum(outcome.classes["DF"].replayed for outcome in chosen) / arrived
    plain = sum(outcome.classes["DF"].plain_replayed for outcome in chosen) / arrived
    judged = [outcome for outcome in chosen if max(outcome.replayed, outcome.suspected) >= LEAST_LOSSES]
    wrong = sum(not outcome.replayed / 2 <= outcome.suspected <= outcome.replayed * 2 for outcome in judged)
    return (
        f"{name:32} {len(chosen):6} {guilty:6} {len(urgent):6} {max(urgent, default=0):6} {len(bulk):6}"
        f" {max(bulk, default=0):6} {lost:9.2%}, {plain:8.2%} {wrong:7}/{len(judged)}"
    )
