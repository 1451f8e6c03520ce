"""What a metric is called, what it counts in, and where it is shown: the terms of statistics.py."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class Kind(enum.Enum):
    """What a value does in the course of time."""

    COUNTER = "counter"
    """Only grows, over reconnects too. It begins anew with each client."""
    GAUGE = "gauge"
    """What is so now."""


class Unit(enum.Enum):
    """What a client counts in; `word` is the metric's unit, part of its name, of which one has `base`."""

    def __init__(self, word: str, base: float, what: str) -> None:
        self.word = word
        self.base = base
        self.what = what

    PACKETS = "packets", 1, "inner packets"
    BYTES = "bytes", 1, "bytes of inner packets, or of keys"
    RECORDS = "records", 1, "DTLS records"
    TIMES = "", 1, "how often"
    MICROSECONDS = "seconds", 1e-6, "time"
    MILLISECONDS = "seconds", 1e-3, "time"
    UNIX_SECONDS = "timestamp_seconds", 1, "a point in time"
    FLAG = "", 1, "0 or 1"
    STATE = "state", 1, "a TunnelState"


class Section(enum.Enum):
    """Where docs/operations.md has the metric."""

    HEALTH = "How are the tunnels?"
    BULK = "Is bulk paying for priority?"


class Line(enum.Enum):
    """Where `qosctl flows` shows a statistic. The value is what its line begins with."""

    OWN_WORDS = ""
    """In a sentence or a table of its own, or among the reasons of its family."""
    DTLS = "dtls"
    ITS_RECORDS = "its records"
    NUMBERING = "numbering"
    PROBES = "probes"
    JSON_ONLY = "-"
    """Not for people: its metric and `--json` have it."""


@dataclass(frozen=True)
class Family:
    """One metric, by tunnel, and by `label` where several statistics make it.

    `help` goes out with it, `use` is what docs/operations.md says it is for. While a tunnel reconnects it has two flows for
    a moment: `combine` makes one value of both.
    """

    name: str
    kind: Kind
    unit: Unit
    help: str
    use: str
    section: Section = Section.HEALTH
    combine: Callable[[Iterable[int]], int] = sum
    label: str = ""
