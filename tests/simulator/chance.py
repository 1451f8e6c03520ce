"""Cases drawn at random: the paths, machines and traffic that people have, and some that they would not like to have.

One function serves both searches: `python -m tests.simulator` hands it a seeded generator, and hypothesis one of its own,
so that it can look for the worst and shrink it.
"""

from __future__ import annotations

import random

from tests.simulator.case import BULK_SIZE, Bursts, Call, Case, Flow, Machine, Path, Server, Source, Steady, Video

MOST_RECORDS = 8_000
"""Records offered in a run, about: what keeps it at some 50 ms."""
LEAST_SECONDS, MOST_SECONDS = 0.5, 8.0
LONG, LONGER = 0.05, 5
"""The share of runs that are so many times as long: what is learnt, and forgotten, takes a while."""


def draw(rng: random.Random) -> Case:
    """Draw one case."""
    path = _path(rng)
    sources = _sources(rng, path)
    offered = sum(_records_a_second(source, path) for source in sources)
    seconds = max(LEAST_SECONDS, min(MOST_SECONDS, MOST_RECORDS / offered)) * (LONGER if rng.random() < LONG else 1)
    seed = rng.randrange(1_000_000)
    return Case(sources, path, _machine(rng), _server(rng), seconds=round(seconds, 2), seed=seed)


def _digits(value: float) -> float:
    """Round to two digits: lines are to be read."""
    return float(f"{value:.2g}")


def _between(rng: random.Random, low: float, high: float) -> float:
    """Draw from low..high, each size alike."""
    return _digits(low * (high / low) ** rng.random())


def _path(rng: random.Random) -> Path:
    mbit = _between(rng, 0.5, 300)
    path: dict[str, object] = {
        "mbit": mbit,
        "lanes": rng.choice(("strict", "strict", "strict", "strict", "shares", "one", "inverted")),
        # From a few packets to a second of the rate; 250 kB is what the bench has.
        "queue_kb": rng.choice((250.0, max(8.0, _digits(mbit * _between(rng, 2, 1000) / 8)))),
        "round_trip_ms": _between(rng, 0.3, 300),
    }
    if rng.random() < 0.3:
        path["in_packets"] = True
    if rng.random() < 0.2:
        path["codel_ms"] = rng.choice((5.0, 20.0))
    if rng.random() < 0.2:
        path["loss"] = _between(rng, 0.0005, 0.05)
    if rng.random() < 0.2:
        factors = [rng.choice((0.1, 0.3, 3.0, 10.0, 1.0)) for _ in range(rng.randint(1, 4))]
        at = sorted(round(rng.random() * 4, 2) for _ in factors)
        path["rates"] = tuple((when, _digits(mbit * factor)) for when, factor in zip(at, factors, strict=True))
    match rng.randrange(6):
        case 0:
            path |= {"jitter_ms": _between(rng, 0.1, 30), "in_order": rng.random() < 0.5}
        case 1:
            path |= {
                "second_way": rng.choice((0.5, 0.5, 0.2, 0.02)),
                "run": rng.choice((1, 1, 4, 30)),
                "hold_ms": _between(rng, 0.3, 50),
                "second_loss": rng.choice((0.0, 0.12)),
            }
        case 2:
            path["bulk_lag_ms"] = _between(rng, 0.5, 50)
    return Path(**path)  # type: ignore[arg-type]


def _sources(rng: random.Random, path: Path) -> tuple[Source, ...]:
    urgent: list[Source] = [_call(rng) for _ in range(_few(rng, 1, 3))]
    if rng.random() < 0.3:
        urgent.append(
            Video(
                mbit=_digits(max(0.2, min(path.mbit * 0.3, _between(rng, 0.5, 8)))),
                dscp=rng.choice(("AF41", "AF41", "EF")),
                start_s=_start(rng),
            )
        )
    if rng.random() < 0.1:
        urgent.append(
            Steady(
                mbit=_digits(path.mbit * _between(rng, 0.05, 0.6)),
                batch=rng.choice((1, 4)),
                dscp=rng.choice(("EF", "AF41")),
                start_s=_start(rng),
            )
        )
    if rng.random() < 0.1:
        urgent.append(
            Bursts(
                kilobytes=_between(rng, 3, 100),
                period_s=_between(rng, 0.1, 2),
                dscp=rng.choice(("EF", "AF41")),
                start_s=_start(rng),
            )
        )
    bulk: list[Source] = []
    for _ in range(_few(rng, 1, 3)):
        match rng.randrange(5):
            case 0:
                bulk.append(
                    Steady(
                        mbit=_digits(path.mbit * _between(rng, 0.1, 3)),
                        batch=rng.choice((1, 4, 20)),
                        poisson=rng.random() < 0.5,
                        start_s=_start(rng),
                    )
                )
            case 1 | 2:
                bulk.append(_bursts(rng, path))
            case _:
                bulk += [_flow(rng, path) for _ in range(_few(rng, 1, 8))]
    return (*urgent, *bulk)


def _call(rng: random.Random) -> Call:
    spurts = (_between(rng, 0.3, 3), _between(rng, 0.2, 3)) if rng.random() < 0.25 else (0.0, 0.0)
    gap = rng.choice((20.0, 20.0, 20.0, 10.0, 60.0))
    return Call(gap_ms=gap, talk_s=spurts[0], silent_s=spurts[1], start_s=_start(rng))


def _bursts(rng: random.Random, path: Path) -> Bursts:
    """A burst may be smaller than a window or fill any queue; the average lies between a hundredth and twice the rate."""
    period = _between(rng, 0.02, 2)
    kilobytes = path.mbit * 1000 / 8 * period * _between(rng, 0.01, 2)
    return Bursts(
        kilobytes=max(2.0, min(3000.0, _digits(kilobytes))),
        period_s=period,
        varied=rng.choice((0.0, 0.1, 0.9)),
        spread_ms=rng.choice((0.0, 0.3, 1.0, 10.0)),
        size=rng.choice((BULK_SIZE, BULK_SIZE, BULK_SIZE, 300)),
        start_s=_start(rng),
    )


def _flow(rng: random.Random, path: Path) -> Flow:
    kilobytes = rng.choice((0.0, _digits(path.mbit * 125 * _between(rng, 0.02, 2))))
    return Flow(kilobytes=kilobytes, rest_s=_between(rng, 0.05, 2), start_s=_start(rng))


def _machine(rng: random.Random) -> Machine:
    machine = {"record_us": rng.choice((8.0, 10.0, 10.0, 30.0, 100.0))}
    if rng.random() < 0.4:
        machine |= {
            "stop_ms": _between(rng, 1, 100),
            "stop_every_s": _between(rng, 0.01, 2),
            "between": rng.choice((0.0, 0.2, 0.5)),
        }
    return Machine(**machine)


def _server(rng: random.Random) -> Server:
    server: dict[str, float | bool] = {"window": rng.choice((64, 64, 65, 128, 1024))}
    match rng.randrange(10):
        case 0:
            server["mute"] = True
        case 1:
            server["echo_loss"] = _between(rng, 0.01, 0.7)
        case 2:
            server["echo_late_ms"] = _between(rng, 0.5, 100)
        case 3:
            server["stop_ms"] = _between(rng, 1, 50)
    return Server(**server)  # type: ignore[arg-type]


def _few(rng: random.Random, least: int, most: int) -> int:
    """Draw a small number, the smallest most often."""
    return least + int((most - least + 1) * rng.random() ** 2)


def _start(rng: random.Random) -> float:
    return rng.choice((0.0, round(rng.random(), 2)))


def _records_a_second(source: Source, path: Path) -> float:
    match source:
        case Call():
            return 1000 / source.gap_ms
        case Bursts():
            return source.kilobytes * 1000 / source.size / source.period_s
        case Flow():
            most = max(path.mbit, *(mbit for _, mbit in path.rates), 0.0)
            return most * 1e6 / 8 / BULK_SIZE / 2
        case _:
            return source.mbit * 1e6 / 8 / BULK_SIZE
