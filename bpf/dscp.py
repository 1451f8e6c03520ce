"""DSCP, ECN and the traffic-class byte as three types that do not mix (RFC 2474, RFC 3168).

      0   1   2   3   4   5   6   7
    +---+---+---+---+---+---+---+---+
    |         DSCP          |  ECN  |   traffic class (IPv6), formerly TOS (IPv4)
    +---+---+---+---+---+---+---+---+

A variable called `dscp` that holds the whole byte is the bug nearly every tool of this kind has had. None of the
three types is an `int`: a type checker rejects one where another is meant, and shifting by two happens only here
and in the C program. All instances exist from the start (64 + 256), so a lookup never allocates.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import ClassVar, final

DSCP_COUNT = 64
TRAFFIC_CLASS_COUNT = 256

# IANA "Differentiated Services Field Codepoints" registry: RFC 2474 (DF, CSx), 2597 (AFxy), 3246 (EF),
# 5865 (VA, there VOICE-ADMIT), 8622 (LE). CS0 is DF by another name.
_ASSIGNED_NAMES: dict[int, str] = {
    0: "DF", 1: "LE", 46: "EF", 44: "VA",
    **{8 * cs: f"CS{cs}" for cs in range(1, 8)},
    **{8 * af + 2 * drop: f"AF{af}{drop}" for af in range(1, 5) for drop in range(1, 4)},
}  # fmt: skip
_ALIASES = {"CS0": "DF", "BE": "DF", "VOICE-ADMIT": "VA"}


class Ecn(enum.Enum):
    """The two ECN bits (RFC 3168 section 5)."""

    NOT_ECT = 0
    ECT_1 = 1
    ECT_0 = 2
    CE = 3


@final
class Dscp:
    """A differentiated services code point, 0..63. Take one with `Dscp.of(46)` or `Dscp.parse("EF")`."""

    __slots__ = ("name", "value")
    _all: ClassVar[tuple[Dscp, ...]] = ()

    value: int
    name: str

    def __init__(self, value: int) -> None:
        """For this module only: the 64 instances are made once, below."""
        self.value = value
        self.name = _ASSIGNED_NAMES.get(value, str(value))

    @classmethod
    def of(cls, value: int) -> Dscp:
        """Return the code point with this number; ValueError outside 0..63."""
        if not 0 <= value < DSCP_COUNT:
            raise ValueError(f"{value} is not a DSCP: the range is 0 to 63")
        return cls._all[value]

    @classmethod
    def parse(cls, text: str) -> Dscp:
        """Return the code point named `text`: an assigned name (EF, AF41, CS1, DF, LE, VA) or a number.

        Numbers may be decimal or 0x hexadecimal. ValueError says what is accepted.
        """
        upper = text.strip().upper()
        named = _BY_NAME.get(_ALIASES.get(upper, upper))
        if named is not None:
            return named
        try:
            return cls.of(int(upper, 0))
        except ValueError:
            raise ValueError(f"{text!r} is not a DSCP: use a name such as EF, AF41, CS1 or 0 to 63") from None

    @classmethod
    def all(cls) -> Iterator[Dscp]:
        """Yield the 64 code points in ascending order."""
        return iter(cls._all)

    @property
    def assigned(self) -> bool:
        """Whether the code point has a name of its own."""
        return self.value in _ASSIGNED_NAMES

    def __repr__(self) -> str:
        return f"Dscp({self.name})"

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: Dscp) -> bool:
        return self.value < other.value

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return (Dscp.of, (self.value,))


@final
class TrafficClass:
    """The whole byte: a DSCP and an ECN field, the IPv6 traffic class or what was the IPv4 TOS."""

    __slots__ = ("byte", "dscp", "ecn")
    _all: ClassVar[tuple[TrafficClass, ...]] = ()

    byte: int
    dscp: Dscp
    ecn: Ecn

    def __init__(self, byte: int) -> None:
        """For this module only: the 256 instances are made once, below."""
        self.byte = byte
        self.dscp = Dscp.of(byte >> 2)
        self.ecn = Ecn(byte & 0b11)

    @classmethod
    def from_byte(cls, byte: int) -> TrafficClass:
        """Take the byte apart; ValueError outside 0..255."""
        if not 0 <= byte < TRAFFIC_CLASS_COUNT:
            raise ValueError(f"{byte} is not a traffic class: the range is 0 to 255")
        return cls._all[byte]

    @classmethod
    def of(cls, dscp: Dscp, ecn: Ecn) -> TrafficClass:
        """Put the byte together."""
        return cls._all[dscp.value << 2 | ecn.value]

    def __repr__(self) -> str:
        return f"TrafficClass({self.dscp}, {self.ecn.name})"


Dscp._all = tuple(Dscp(value) for value in range(DSCP_COUNT))
_BY_NAME = {dscp.name: dscp for dscp in Dscp.all()}
TrafficClass._all = tuple(TrafficClass(byte) for byte in range(TRAFFIC_CLASS_COUNT))

DF = Dscp.of(0)
LE = Dscp.of(1)
EF = Dscp.of(46)
