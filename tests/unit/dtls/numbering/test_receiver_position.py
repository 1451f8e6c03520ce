"""The two bounds of the receiver's position, against a pencil: a number each millisecond, a queue of 100 ms."""

from __future__ import annotations

import pytest
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.dtls.numbering.class_path import ClassPath, Probe
from qosctl.dtls.numbering.overtaking import Event, Overtaking
from qosctl.dtls.numbering.receiver_position import GROWTH, PACE, ReceiverPosition

WINDOW, RTT = 64, 0.001
NOW = 1.0


class Scene:
    """Bulk whose number n was sent n milliseconds after the start, with a probe every 20; and a call that overtakes it."""

    def __init__(self, echoed: int, heard: float = NOW - 0.005) -> None:
        """Bulk's probes up to number `echoed` have come back, the last one at `heard`."""
        self.bulk, self.call = ClassPath(DF, Overtaking()), ClassPath(EF, Overtaking())
        self.call.overtaking.happens(Event.PROVED, 0.0)
        for number in range(1001):
            self.bulk.history.note(number / 1000, number, number)
            if number and number % 20 == 0:
                self.bulk.asked(Probe(number, number / 1000, number, number, number - 20, number))
        self.bulk.highest, self.bulk.sent_at = 1000, NOW
        for number in range(20, echoed, 20):  # each came back when it should
            self.bulk.answered(number, heard - (echoed - number) / 1000, heard - (echoed - number) / 1000, 1000)
        self.bulk.answered(echoed, heard, heard, 1000)
        self.position = ReceiverPosition([self.bulk, self.call], WINDOW)

    def call_probe(self, number: int, sent: float, rtt: float | None = RTT) -> None:
        """The call sent a probe; it came back, or has not."""
        name = 10_000 + round(sent * 1000)
        self.call.asked(Probe(name, sent, 1000, 0, 0, number, behind=True))
        self.call.highest = max(self.call.highest, number)
        if rtt is not None:
            self.call.answered(name, sent + rtt, sent + rtt, 1000)

    @property
    def bound(self) -> int:
        return self.position.bound(self.call, NOW)


def test_it_is_between_the_last_that_came_back_and_a_few_round_trips_above_the_first_that_did_not() -> None:
    scene = Scene(echoed=880)
    scene.call_probe(905, NOW - 0.01)
    assert scene.position.reached(scene.call, NOW) == 880
    lost = 880 + PACE * (5 + 1)  # e, and what passes faster since its echo was heard, and until we arrive
    assert scene.bound == max(900 + GROWTH * RTT * 1000, lost) == pytest.approx(910, abs=1)


def test_the_bound_grows_while_nothing_is_heard_of_what_is_overtaken() -> None:
    bounds = []
    for heard in (NOW - 0.005, NOW - 0.02, NOW - 0.04, NOW - 0.06):
        scene = Scene(echoed=880, heard=heard)
        scene.call_probe(905, NOW - 0.01)
        bounds.append(scene.bound)
    assert bounds == pytest.approx([910, 911, 941, 880 + PACE * (60 + 1)], abs=1)


def test_a_low_number_that_was_accepted_holds_it() -> None:
    scene = Scene(echoed=880, heard=NOW - 0.06)
    scene.call_probe(860, NOW - 0.01)
    assert scene.bound == pytest.approx(860 + WINDOW + PACE * 10, abs=1)


def test_an_own_probe_that_is_overdue_lets_it_grow() -> None:
    scene = Scene(echoed=880)
    scene.call_probe(905, NOW - 0.04)
    assert scene.bound == pytest.approx(910, abs=1)
    scene.call_probe(906, NOW - 0.03, rtt=None)
    assert scene.bound > 940


def test_without_a_probe_on_its_way_it_is_the_newest_number() -> None:
    scene = Scene(echoed=1000)
    scene.call_probe(905, NOW - 0.01)
    assert scene.bound == 1000


def test_all_that_was_given_to_a_more_urgent_class_may_arrive_first() -> None:
    scene = Scene(echoed=880)
    scene.call_probe(970, NOW - 0.01)
    assert scene.position.bound(scene.bulk, NOW) == 1000
    video = ClassPath(Dscp.parse("AF41"), Overtaking())
    assert ReceiverPosition([scene.call, video], WINDOW).bound(video, NOW) == 970


def test_before_the_first_echo_it_is_the_newest_number() -> None:
    scene = Scene(echoed=880)
    assert scene.bound == 1000


def test_what_was_dropped_for_its_number_is_not_waited_for() -> None:
    bulk = Scene(echoed=880).bulk
    first, undropped = bulk.first_unanswered(0), bulk.first_unanswered(926)
    assert first is not None and first.number == 900
    assert undropped is not None and undropped.number == 940


def test_a_late_look_counts_from_the_look_before() -> None:
    path = ClassPath(DF, Overtaking())
    path.asked(Probe(1, 0.5, 0, 0, 0, 7))
    path.answered(1, 1.0, 0.9, 7)
    assert (path.heard_at, path.rtt) == (0.9, 0.5)


def test_nothing_is_reached_of_what_is_not_on_its_way() -> None:
    scene = Scene(echoed=1000)
    assert scene.position.reached(scene.call, NOW) is None
