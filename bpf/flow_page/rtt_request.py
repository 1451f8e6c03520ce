"""Round trips by DSCP, asked for and answered in the last words of a flow's page (statistics.py).

Any process that can open the ring may ask; the client that owns the flow answers. Neither trusts the other: all that is
read here is bounded, and a word that makes no sense is no request and no answer.

    0    the request's id, stored last; 0: there is none
    1    the DSCPs asked for, a bit each
    2    until when to probe, CLOCK_MONOTONIC in nanoseconds
    3    the id of the request that is being answered
    4    how many probes it has led to
    8..  a word a probe: round trip in microseconds << 8 | DSCP; 0 microseconds until it is back
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.abi import FLOW_INFO_WORDS, RING_WORDS, WORD
from qosctl.bpf.dscp import DSCP_COUNT, Dscp

REQUEST_WORDS = 64
_REQUEST_AT = FLOW_INFO_WORDS - REQUEST_WORDS
_ID, _DSCPS, _UNTIL, _ANSWERED, _COUNT = range(5)
_PROBES_AT = 8
PROBES_MAX = REQUEST_WORDS - _PROBES_AT
"""Probes that one request can lead to."""
_DSCP_BITS = 8
_MICROSECONDS_MAX = (1 << 56) - 1


@dataclass(frozen=True)
class RttRequest:
    """What is asked: `dscps` in ascending order, at least one; `until_ns` of CLOCK_MONOTONIC."""

    id: int
    dscps: Sequence[Dscp]
    until_ns: int


@dataclass(frozen=True)
class RoundTrip:
    """One probe of a class; None where it has not come back."""

    dscp: Dscp
    microseconds: int | None


def request_words(info: memoryview) -> memoryview:
    """Return the words of a flow's page (a byte view) that this module is about."""
    return info.cast("Q")[_REQUEST_AT:FLOW_INFO_WORDS]


def opened(ring_fd: int) -> memoryview:
    """Map the words of a ring, to ask in; the descriptor is closed. OSError where it cannot be."""
    try:
        size = FLOW_INFO_WORDS * WORD.size
        page = mmap.mmap(ring_fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=RING_WORDS * WORD.size)
    finally:
        os.close(ring_fd)
    return request_words(memoryview(page))


# The side that asks


def ask(words: memoryview, request: RttRequest) -> None:
    """Store a request in place of the last one."""
    words[_ID] = 0
    words[_DSCPS] = sum(1 << dscp.value for dscp in request.dscps)
    words[_UNTIL] = request.until_ns
    words[_ID] = request.id


def withdraw(words: memoryview) -> None:
    """Ask nothing any more."""
    words[_ID] = 0


def answer(words: memoryview, request: int) -> Sequence[RoundTrip] | None:
    """Return the probes that a request (its id) has led to so far, None where it is not being answered. Never raises."""
    if words[_ANSWERED] != request:
        return None
    return [_round_trip(words[_PROBES_AT + n]) for n in range(min(words[_COUNT], PROBES_MAX))]


def _round_trip(word: int) -> RoundTrip:
    dscp = Dscp.of(word % DSCP_COUNT)
    return RoundTrip(dscp, word >> _DSCP_BITS or None)


# The side that answers


class RttRequestWords:
    """The words of a flow's page as its client sees them. They may hold anything; no call raises."""

    probes_max = PROBES_MAX

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def current_id(self) -> int:
        """Return the id of what is asked, 0 where nothing is."""
        return id_in(self._words)

    def current(self) -> RttRequest | None:
        """Return what is asked, None where nothing is."""
        number = id_in(self._words)
        if not number:
            return None
        bits = self._words[_DSCPS]
        dscps = [Dscp.of(value) for value in range(DSCP_COUNT) if bits >> value & 1]
        return RttRequest(number, dscps, self._words[_UNTIL]) if dscps else None

    def begin(self, request: int) -> None:
        """Say that the request with this id is being answered."""
        self._words[_COUNT] = 0
        self._words[_ANSWERED] = request

    def probe_sent(self, number: int, dscp: Dscp) -> None:
        """Note the probe `number`, counted from 0, below PROBES_MAX."""
        self._words[_PROBES_AT + number] = dscp.value
        self._words[_COUNT] = number + 1

    def probe_echoed(self, number: int, dscp: Dscp, seconds: float) -> None:
        """Note that it is back."""
        microseconds = min(max(round(seconds * 1e6), 1), _MICROSECONDS_MAX)
        self._words[_PROBES_AT + number] = microseconds << _DSCP_BITS | dscp.value


def id_in(words: memoryview) -> int:
    """Return the id of what is asked, 0 where nothing is: cheap enough to look at often."""
    number: int = words[_ID]
    return number
