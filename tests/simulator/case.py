"""A case of the simulator: a path, a client, a server and their traffic, on one line that makes it again.

    Case(sources=(Bursts(kilobytes=120.0, period_s=0.5), Call()), path=Path(mbit=5.0))

The line names what differs from the defaults. Units are in the names; Mbit/s and bytes are those on the wire.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from typing import Literal

BULK_SIZE = 1278
"""Bytes of an inner packet of 1,200 bytes and its four outer headers."""
CALL_SIZE = 238
CLASSES = ("EF", "AF41", "DF")


@dataclass(frozen=True)
class _Line:
    """Prints the fields that differ from their defaults."""

    def __repr__(self) -> str:
        said = (f"{each.name}={value!r}" for each in fields(self) if (value := getattr(self, each.name)) != each.default)
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class Steady(_Line):
    """Datagrams at a constant rate, `batch` at once, each pause varied by a tenth, or exponentially where `poisson`."""

    mbit: float = 40.0
    size: int = BULK_SIZE
    batch: int = 4
    poisson: bool = False
    dscp: str = "DF"
    start_s: float = 0.0


@dataclass(frozen=True, repr=False)
class Bursts(_Line):
    """So many kilobytes every period, each period varied by a share, written at once or within `spread_ms`."""

    kilobytes: float = 120.0
    period_s: float = 0.5
    varied: float = 0.0
    spread_ms: float = 0.0
    size: int = BULK_SIZE
    dscp: str = "DF"
    start_s: float = 0.0


@dataclass(frozen=True, repr=False)
class Call(_Line):
    """A packet every 20 ms; with silence suppressed, nothing for `silent_s` after each `talk_s` of it."""

    gap_ms: float = 20.0
    size: int = CALL_SIZE
    talk_s: float = 0.0
    silent_s: float = 0.0
    dscp: str = "EF"
    start_s: float = 0.0


@dataclass(frozen=True, repr=False)
class Video(_Line):
    """Thirty frames a second, each as many packets as its rate asks for; every sixtieth is six times as large."""

    mbit: float = 4.0
    dscp: str = "AF41"
    start_s: float = 0.0


@dataclass(frozen=True, repr=False)
class Flow(_Line):
    """A TCP-like transfer: slow start, then CUBIC. After so many kilobytes (0: never) it rests and begins anew."""

    kilobytes: float = 0.0
    rest_s: float = 0.5
    dscp: str = "DF"
    start_s: float = 0.0


Source = Steady | Bursts | Call | Video | Flow


@dataclass(frozen=True, repr=False)
class Path(_Line):
    """One bottleneck, then a delay. `rates` are (second, Mbit/s) at which the rate changes."""

    mbit: float = 20.0
    rates: tuple[tuple[float, float], ...] = ()
    lanes: Literal["strict", "shares", "one", "inverted"] = "strict"
    """strict: EF, then AF41, then DF. shares: each a third of the rate while it has something to send (deficit round robin,
    as CAKE's tins). one: the network knows no classes. inverted: DF first."""
    queue_kb: float = 250.0
    """Room in each lane's queue, in bytes as a bfifo counts them."""
    in_packets: bool = False
    """Room is for as many packets as are full-size in it, whatever their size: a probe finds none where bulk finds none."""
    codel_ms: float = 0.0
    """Target of CoDel in each queue (RFC 8289), which drops from the front; 0 drops at the tail only."""
    round_trip_ms: float = 2.0
    loss: float = 0.0
    """Share of records that vanish behind the bottleneck."""
    jitter_ms: float = 0.0
    """Up to so much more delay for each record."""
    in_order: bool = False
    """Jitter does not reorder: what would overtake waits."""
    second_way: float = 0.0
    """Share of the records that take a second way, one run after the other; 0.5 alternates."""
    run: int = 1
    """Records in a row on the second way."""
    hold_ms: float = 10.0
    """By how much the second way is longer."""
    second_loss: float = 0.0
    bulk_lag_ms: float = 0.0
    """By how much the way of DF is longer than that of other classes, whatever the queue."""
    odd_from_s: float = 0.0
    """When jitter, the second way and the longer one begin: a route that changes."""


@dataclass(frozen=True, repr=False)
class Machine(_Line):
    """The client's machine. It stops about every `stop_every_s` for 1 ms to `stop_ms`."""

    record_us: float = 10.0
    """What a record costs, from reading it to the end of its sending."""
    stop_ms: float = 0.0
    stop_every_s: float = 0.1
    between: float = 0.0
    """Share of the stops that lie between the choice of a number and the sending of its record."""


@dataclass(frozen=True, repr=False)
class Server(_Line):
    """The server. `window` is its replay window, the rest is what becomes of echoes."""

    window: int = 64
    mute: bool = False
    """It echoes nothing."""
    echo_loss: float = 0.0
    echo_late_ms: float = 0.0
    """Up to so much later, and so out of order."""
    stop_ms: float = 0.0
    """It stops for up to so long some five times a second; echoes wait, and come together."""


@dataclass(frozen=True, repr=False)
class Case(_Line):
    """All that a run depends on."""

    sources: tuple[Source, ...] = (Steady(), Call())
    path: Path = Path()
    machine: Machine = Machine()
    server: Server = Server()
    seconds: float = 5.0
    count_from_s: float = 0.0
    """Records sent earlier are not counted."""
    seed: int = 1


_PARTS = {kind.__name__: kind for kind in (Case, Steady, Bursts, Call, Video, Flow, Path, Machine, Server)}


def parse(line: str) -> Case:
    """Return the case that printed this line; ValueError if none did."""
    made = _value(ast.parse(line, mode="eval").body)
    if not isinstance(made, Case):
        raise ValueError(f"not a case: {line}")  # noqa: TRY004  (the text is wrong, not its type)
    return made


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PARTS:
        given = {word.arg or "": _value(word.value) for word in node.keywords}
        return _PARTS[node.func.id](**given)  # type: ignore[arg-type]
    if isinstance(node, ast.Tuple):
        return tuple(map(_value, node.elts))
    return ast.literal_eval(node)
