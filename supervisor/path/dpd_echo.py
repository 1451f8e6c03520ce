"""Round trips by class through the tunnel's own DPD echo: the running client is asked for them in its flow's page.

The client sends the requests itself, as records of the classes in question, at its own pace: see
qosctl.dtls.session.rtt_responder. Nothing else need answer at the far end than the VPN server, and nothing of this
machine's routing lies between.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page import rtt_request
from qosctl.bpf.flow_page.rtt_request import RoundTrip, RttRequest
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.namespace_maps import flow_pins, folder
from qosctl.supervisor.path.rtt import ROUNDS, DscpTimes

_HEARD_S = 3.0
"""Until a client has seen the request: one without traffic looks every 2 s."""
_ALL_S = 8.0
"""Until all probes have been sent, and the last one is back or lost."""
_LINGER_S = 1.0
_LOOK_S = 0.02
_MICROSECONDS = 1000.0


class NoAnswerError(Exception):
    """The client does not answer; the text says why, as far as can be known."""


class GoneError(NoAnswerError):
    """The client has ended, and its device ends with it: nothing else need be tried."""

    def __init__(self) -> None:
        super().__init__("the client has gone")


def measure(flow: Flow, classes: Sequence[Dscp]) -> list[DscpTimes]:
    """Have the client probe these classes in turns, ROUNDS times; some 4 s. NoAnswerError where it does not."""
    if flow.statistics[Statistic.STATE] != TunnelState.DTLS:
        raise NoAnswerError("packets do not go over DTLS now, and so unmarked")
    pins = flow_pins(folder())
    try:
        words = rtt_request.opened(pins.open_ring(flow.ring_id))
    except OSError as error:
        raise NoAnswerError(f"its memory cannot be opened ({error.strerror})") from error
    number = secrets.randbits(64) or 1
    rtt_request.ask(words, RttRequest(number, classes, time.monotonic_ns() + round((_HEARD_S + _ALL_S) * 1e9)))
    try:
        trips = _wait(words, number, len(classes) * ROUNDS, lambda: pins.alive(flow.ring_id))
    finally:
        if rtt_request.id_in(words) == number:
            rtt_request.withdraw(words)
    if trips is None and not pins.alive(flow.ring_id):
        raise GoneError
    if trips is None:
        raise NoAnswerError("the client does not answer: it is of an older version, hangs, or somebody else asks")
    return [_times(dscp, trips) for dscp in classes]


def _wait(words: memoryview, number: int, wanted: int, alive: Callable[[], bool]) -> Sequence[RoundTrip] | None:
    """Return what has come of the request when it is over, None where the client has not seen it."""
    deadline = time.monotonic() + _HEARD_S
    while (trips := rtt_request.answer(words, number)) is None:
        if time.monotonic() >= deadline or not alive():
            return None
        time.sleep(_LOOK_S)
    deadline = time.monotonic() + _ALL_S
    complete = False
    while time.monotonic() < deadline and alive():
        time.sleep(_LOOK_S)
        now = rtt_request.answer(words, number)
        if now is None:  # somebody else's request came in between
            break
        trips = now[:wanted]
        if len(trips) == wanted:
            if all(trip.microseconds is not None for trip in trips):
                break
            if not complete:
                complete, deadline = True, time.monotonic() + _LINGER_S
    return trips


def _times(dscp: Dscp, trips: Sequence[RoundTrip]) -> DscpTimes:
    own = [trip.microseconds for trip in trips if trip.dscp is dscp]
    back = [microseconds / _MICROSECONDS for microseconds in own if microseconds is not None]
    return DscpTimes(dscp, back, len(own) - len(back))
