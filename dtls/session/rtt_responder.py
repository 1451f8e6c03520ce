"""Round trips by class for whoever asks for them in the flow's page (qosctl.bpf.flow_page.rtt_request). No I/O, no clock.

A probe is a DPD request in a class that is asked for, which the server echoes. It is a record like any other of its class:
numbered, marked and queued as a packet would be, and so few that nobody feels them. What is asked comes from another
process and is bounded here: so many probes a question, so long, and never two within PAUSE_S, however often the question
changes.
"""

from __future__ import annotations

import math

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page import rtt_request
from qosctl.bpf.flow_page.rtt_request import PROBES_MAX, Question

PAUSE_S = 0.125
LONGEST_S = 15.0
"""How long one question is answered at most."""
_ID_BYTES, _NUMBER_BYTES = 8, 4
ASKED_BYTES = _ID_BYTES + _NUMBER_BYTES
"""Payload of such a probe. Other DPD requests have other lengths (probing.py, path_mtu.py)."""


class Asked:
    """Answers in `words`. Ask `due` now and then: with nothing asked it is one load."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._question: Question | None = None
        self._id = 0  # of the last question, over or not
        self._open: dict[int, tuple[Dscp, float]] = {}
        self._count = 0
        self._ends = self._next = -math.inf

    def due(self, now: float) -> tuple[Dscp, bytes] | None:
        """Return class and payload of a probe to send now, None where none is due."""
        if rtt_request.id_in(self._words) != self._id:
            self._begin(now)
        question = self._question
        if question is None or now < self._next:
            return None
        if self._count == PROBES_MAX or now >= self._ends:
            self._question = None
            return None
        number, self._count = self._count, self._count + 1
        dscp = question.classes[number % len(question.classes)]
        self._next = now + PAUSE_S
        self._open[number] = dscp, now
        rtt_request.sent(self._words, number, dscp)
        return dscp, question.id.to_bytes(_ID_BYTES) + number.to_bytes(_NUMBER_BYTES)

    def next_time(self) -> float:
        """Return when `due` may have something to say next; infinite where nothing is asked."""
        return math.inf if self._question is None else self._next

    def echoed(self, payload: bytes, now: float) -> None:
        """Learn that ASKED_BYTES came back; what answers no open probe changes nothing."""
        if int.from_bytes(payload[:_ID_BYTES]) != self._id:
            return
        number = int.from_bytes(payload[_ID_BYTES:])
        if number in self._open:
            dscp, sent = self._open.pop(number)
            rtt_request.echoed(self._words, number, dscp, now - sent)

    def _begin(self, now: float) -> None:
        self._question = question = rtt_request.question_in(self._words)
        self._id = rtt_request.id_in(self._words) if question is None else question.id
        self._open.clear()
        self._count = 0
        if question is not None:
            self._ends = min(question.until_ns / 1e9, now + LONGEST_S)
            rtt_request.begin(self._words, question.id)
