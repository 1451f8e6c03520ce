"""Who only hears finds out that nothing comes any more, and who hears, that nobody hears him."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from qosctl.dtls.session.dpd import DOUBT_EVERY_S, DOUBT_RENEWED_S, PROOF_S, DeadPeerDetection, Due
from qosctl.dtls.vpn.session import Timers

QUIET_S, UNANSWERED_LIMIT, UNPROVEN_LIMIT = 2.0, 4, 8
STEP_S = 0.05
Step = Callable[[float, DeadPeerDetection, Due], None]


def alive() -> DeadPeerDetection:
    """A channel whose server wants to be asked every 90 s, and has answered once."""
    life = DeadPeerDetection(
        Timers(dpd=90, keepalive=0), 0.0, quiet=QUIET_S, unanswered_limit=UNANSWERED_LIMIT, unproven_limit=UNPROVEN_LIMIT
    )
    life.answered(0.0)
    return life


def as_on_tls() -> DeadPeerDetection:
    """A channel whose losses the transport finds: only time and doubt count."""
    return DeadPeerDetection(Timers(dpd=90, keepalive=0), 0.0, unanswered_limit=UNANSWERED_LIMIT)


def run(life: DeadPeerDetection, seconds: float, step: Step) -> tuple[list[float], float | None]:
    """Let time pass; return when a request went out, and when the channel was found dead, if it was."""
    asked: list[float] = []
    for tick in range(round(seconds / STEP_S)):
        now = tick * STEP_S
        due = life.due(now)
        if due is Due.DEAD:
            return asked, now
        if due is Due.DPD:
            asked.append(now)
        step(now, life, due)
    return asked, None


def test_who_only_hears_asks_soon_after_the_last_word() -> None:
    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        if now < 5.0:
            life.last_rx = now

    asked, dead = run(alive(), 20, step)
    assert asked[0] == pytest.approx(5.0 + QUIET_S, abs=2 * STEP_S)
    assert len(asked) == UNANSWERED_LIMIT
    assert dead == pytest.approx(5.0 + QUIET_S + UNANSWERED_LIMIT * 0.75, abs=0.5)


def test_an_answer_leaves_a_quiet_channel_in_peace() -> None:
    def step(now: float, life: DeadPeerDetection, due: Due) -> None:
        if now < 5.0:
            life.last_rx = now
        if due is Due.DPD:
            life.last_rx = now
            life.answered(now)

    asked, dead = run(alive(), 80, step)
    assert len(asked) == 1
    assert dead is None


def test_what_is_heard_does_not_prove_that_we_are() -> None:
    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        life.last_rx = life.last_tx = now

    asked, dead = run(alive(), 30, step)
    assert asked[0] == pytest.approx(PROOF_S, abs=2 * STEP_S)
    assert len(asked) == UNPROVEN_LIMIT
    assert dead == pytest.approx(PROOF_S + UNPROVEN_LIMIT * 0.75, abs=0.5)


def test_one_answer_in_six_is_proof_enough() -> None:
    asked_before = 0

    def step(now: float, life: DeadPeerDetection, due: Due) -> None:
        nonlocal asked_before
        life.last_rx = life.last_tx = now
        asked_before += due is Due.DPD
        if asked_before == 6:
            asked_before = 0
            life.answered(now)

    asked, dead = run(alive(), 60, step)
    assert dead is None
    assert len(asked) < 60


def test_a_server_that_never_answered_has_nothing_to_prove() -> None:
    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        life.last_rx = life.last_tx = now

    life = DeadPeerDetection(
        Timers(dpd=90, keepalive=0), 0.0, quiet=QUIET_S, unanswered_limit=UNANSWERED_LIMIT, unproven_limit=UNPROVEN_LIMIT
    )
    assert run(life, 60, step) == ([], None)


def test_where_the_transport_finds_losses_itself_only_time_counts() -> None:
    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        life.last_tx = now

    life = DeadPeerDetection(Timers(dpd=90, keepalive=0), 0.0)
    life.answered(0.0)
    assert run(life, 60, step) == ([], None)


@pytest.mark.parametrize("every_s", [0.05, 0.5, 5.0])
def test_doubt_that_never_ends_puts_no_verdict_off(every_s: float) -> None:
    """Some other interface goes up and down all the time."""

    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        if round(now / STEP_S) % round(every_s / STEP_S) == 0:
            life.doubt(now)

    dead = run(as_on_tls(), 100, step)[1]
    assert dead is not None
    assert dead <= DOUBT_RENEWED_S + UNANSWERED_LIMIT * DOUBT_EVERY_S + 0.5


def test_doubt_begins_anew_while_the_network_settles() -> None:
    """The last news count."""

    def step(now: float, life: DeadPeerDetection, _: Due) -> None:
        if now in (0.0, 2.5, 5.0):
            life.doubt(now)

    assert run(as_on_tls(), 100, step)[1] == pytest.approx(5.0 + UNANSWERED_LIMIT * DOUBT_EVERY_S, abs=0.5)
