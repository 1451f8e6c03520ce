"""Measures round trips by DSCP when a request stands in the flow's page (marker.RttRequests). No I/O, no clock.

A probe is a DPD request in a class that is asked for, which the server echoes. It is a record like any other of its class:
numbered, marked and queued as a packet would be, and too rare to delay packets. The request comes from another process and
is bounded here: so many probes a request, so long, and never two within PAUSE_S, however often the request
changes.
"""

from __future__ import annotations

import math

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.session.marker import RttRequest, RttRequests

PAUSE_S = 0.125
LONGEST_S = 15.0
"""How long one request is answered at most."""
_NUMBER_BITS = 32


class RttResponder:
    """Answers `requests`. Ask `due` now and then: with nothing asked it is one load."""

    def __init__(self, requests: RttRequests) -> None:
        self._requests = requests
        self._request: RttRequest | None = None
        self._id = 0  # of the last request, over or not
        self._open: dict[int, tuple[Dscp, float]] = {}
        self._count = 0
        self._ends = self._next = -math.inf

    def due(self, now: float) -> tuple[Dscp, int] | None:
        """Return class and id of a probe to send now, None where none is due."""
        if self._requests.current_id() != self._id:
            self._begin(now)
        request = self._request
        if request is None or now < self._next:
            return None
        if self._count == self._requests.probes_max or now >= self._ends:
            self._request = None
            return None
        number, self._count = self._count, self._count + 1
        dscp = request.dscps[number % len(request.dscps)]
        self._next = now + PAUSE_S
        self._open[number] = dscp, now
        self._requests.probe_sent(number, dscp)
        return dscp, request.id << _NUMBER_BITS | number

    def next_time(self) -> float:
        """Return when `due` may have something to say next; infinite where nothing is asked."""
        return math.inf if self._request is None else self._next

    def echoed(self, probe: int, now: float) -> None:
        """Learn that a probe came back, by its id; one that answers no open probe changes nothing."""
        if probe >> _NUMBER_BITS != self._id:
            return
        number = probe & ((1 << _NUMBER_BITS) - 1)
        if number in self._open:
            dscp, sent = self._open.pop(number)
            self._requests.probe_echoed(number, dscp, now - sent)

    def _begin(self, now: float) -> None:
        self._request = request = self._requests.current()
        self._id = self._requests.current_id() if request is None else request.id
        self._open.clear()
        self._count = 0
        if request is not None:
            self._ends = min(request.until_ns / 1e9, now + LONGEST_S)
            self._requests.begin(request.id)
