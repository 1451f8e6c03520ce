"""What becomes of a session that ended: waits, logins, and when it is over."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import (
    DismissedError,
    InternalError,
    NoPermissionError,
    NoRoomError,
    NotAttachedError,
    QosctlError,
    RefusedError,
    ShortageError,
    UsageError,
)
from qosctl.dtls.anyconnect.connect_response import REKEY_MIN_S
from qosctl.dtls.session.reconnect import (
    FULL_PATIENCE_S,
    HURRIES,
    HURRY_AGAIN_S,
    HURRY_EVERY_S,
    LONG_OUTAGE_S,
    LONG_WAIT_MAX_S,
    NO_ROOM_WAIT_MAX_S,
    REFUSALS_MAX,
    SETTLE_S,
    SETTLED_S,
    WAIT_MAX_S,
    Backoff,
    Hurry,
    Reason,
    Recovery,
)
from qosctl.dtls.transport.certificate_check import UntrustedError
from qosctl.dtls.transport.dial import UnreachableError
from qosctl.dtls.vpn.account import FRESH_S, Account
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.vpn.errors import CookieRefusedError, LoginError, PasswordUnansweredError

NOBODY = UnreachableError("nobody there")
COOKIE = CookieRefusedError("no such cookie")
FULL = NoRoomError("no room")
ENDED = NotAttachedError("the server ended the session")


def recovery(reason: Reason = Reason.SERVER_CLOSED, *, can_log_in: bool = True, patience_s: float = math.inf) -> Recovery:
    """After a session that had lived: the first attempt is due at once."""
    made = Recovery(can_log_in=can_log_in, patience_s=patience_s, random=lambda: 0.0)
    assert made.lost(reason, ENDED, lived_s=3600.0, now=0.0) == 0.0
    return made


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([WAIT_MAX_S, LONG_WAIT_MAX_S]))
def test_waits_are_bounded_and_jittered_downwards(chances: list[float], most: float) -> None:
    backoff = Backoff(iter(chances).__next__)
    waits = [backoff.next_wait(most) for _ in chances]
    assert waits[0] == 0.0
    assert all(0 < wait <= most for wait in waits[1:])
    assert all(wait >= most / 2 for wait in waits[10:])
    backoff.reset()
    with pytest.raises(StopIteration):
        backoff.next_wait(most)


def test_nobody_there_is_tried_for_ever() -> None:
    outage = recovery(can_log_in=False)
    waits = [outage.after(NOBODY, now) for now in range(1000)]
    assert waits[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(waits[5:600]) == {WAIT_MAX_S}
    assert waits[-1] == LONG_WAIT_MAX_S


@pytest.mark.audit
def test_sessions_that_end_at_once_are_begun_ever_more_slowly() -> None:
    """Finding 8: each end began a new outage, whose first wait is none."""
    outage = recovery()
    now, begun = 0.0, 0
    while now < LONG_OUTAGE_S + 600:
        now += outage.lost(Reason.SERVER_CLOSED, ENDED, lived_s=0.01, now=now) + 0.01
        begun += 1
        if begun == 7:
            assert now > 4.0
    assert begun < LONG_OUTAGE_S / WAIT_MAX_S + 600 / LONG_WAIT_MAX_S + 10
    assert outage.lost(Reason.SERVER_CLOSED, ENDED, lived_s=SETTLED_S, now=now) == 0.0


def test_new_keys_as_often_as_a_server_may_want_them_wait_for_nothing() -> None:
    outage = recovery()
    assert all(outage.lost(Reason.REKEY, ENDED, lived_s=REKEY_MIN_S, now=now) == 0.0 for now in range(0, 100, REKEY_MIN_S))


def test_an_attempt_that_failed_within_a_session_that_ends_at_once_counts_too() -> None:
    outage = recovery()
    assert outage.after(NOBODY, 0.0) == 0.25
    assert outage.lost(Reason.SERVER_CLOSED, ENDED, lived_s=0.0, now=1.0) == 0.5


@pytest.mark.audit
def test_no_room_is_waited_for_longer_and_longer_with_the_same_cookie() -> None:
    """QC-06: a full server got a password login for each attempt."""
    outage = recovery(can_log_in=True)
    waits = [outage.after(FULL, 0.0) for _ in range(50)]
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert sum(waits[:6]) > 30
    assert waits[-1] == NO_ROOM_WAIT_MAX_S
    assert not outage.must_log_in()


@pytest.mark.audit
def test_a_password_that_nobody_answered_is_sent_again_so_seldom_that_no_lock_counts_it() -> None:
    outage = recovery()
    unanswered = PasswordUnansweredError("nothing said")
    assert [outage.after(unanswered, 0.0) for _ in range(4)] == [60.0, 900.0, 900.0, 900.0]
    outage.lost(Reason.SERVER_CLOSED, ENDED, lived_s=0.0, now=0.0)
    assert outage.after(unanswered, 0.0) == 60.0


def test_a_client_that_never_had_a_session_waits_for_room_as_long_as_a_dead_one_may_hold_it() -> None:
    outage = Recovery(can_log_in=True, patience_s=math.inf, random=lambda: 0.0)
    outage.first(now=5.0)
    outage.after(FULL, FULL_PATIENCE_S)
    with pytest.raises(NoRoomError):
        outage.after(FULL, FULL_PATIENCE_S + 5.0)
    short = Recovery(can_log_in=True, patience_s=10.0, random=lambda: 0.0)
    short.first(now=0.0)
    with pytest.raises(NoRoomError):
        short.after(FULL, 10.0)


@pytest.mark.audit
@given(st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_news_bring_attempts_forward_within_bounds(gaps: list[float]) -> None:
    """Finding 8: each piece of news set the growing wait back to none."""
    hurry, now, at = Hurry(), 0.0, []
    for gap in gaps:
        now += gap
        due = hurry.sooner(now, now + 3600.0)
        assert due >= now + SETTLE_S
        at.append(due)
        now = due
    assert all(later - sooner > HURRY_EVERY_S - 1e-6 for sooner, later in itertools.pairwise(at))
    for begin in at:
        assert sum(begin <= each < begin + 100 for each in at) <= HURRIES + 100 / HURRY_AGAIN_S + 1


def test_the_first_news_is_answered_soon_and_none_later_than_it_would_have_been() -> None:
    hurry = Hurry()
    assert hurry.sooner(100.0, 130.0) == 100.0 + SETTLE_S
    assert hurry.sooner(100.05, 100.1) == 100.1


def test_our_own_faults_and_shortages_are_no_refusals_of_the_server() -> None:
    outage = recovery()
    for now in range(3 * REFUSALS_MAX):
        outage.after(InternalError.of(KeyError("x")), now)
        outage.after(ShortageError("x"), now)


def test_patience_ends() -> None:
    outage = recovery(patience_s=10)
    outage.after(NOBODY, 9.9)
    with pytest.raises(UnreachableError):
        outage.after(NOBODY, 10)


@pytest.mark.parametrize("reason", [Reason.SERVER_CLOSED, Reason.SESSION_TIMEOUT, Reason.SERVER_SILENT])
def test_a_refused_cookie_means_a_login_at_once(reason: Reason) -> None:
    outage = recovery(reason)
    assert outage.after(COOKIE, 1) == 0.0
    assert outage.must_log_in()
    assert not outage.must_log_in()


def test_a_refused_cookie_without_a_password_is_the_end() -> None:
    with pytest.raises(CookieRefusedError):
        recovery(can_log_in=False).after(COOKIE, 1)


def test_a_goodbye_and_a_refused_cookie_at_once_is_somebodys_will() -> None:
    with pytest.raises(DismissedError, match=f"^{ENDED.message}$"):
        recovery(Reason.SERVER_GOODBYE).after(COOKIE, 1)


def test_a_goodbye_of_a_server_that_then_was_away_is_a_restart() -> None:
    outage = recovery(Reason.SERVER_GOODBYE)
    outage.after(NOBODY, 1)
    assert outage.after(COOKIE, 2) == 0.0
    assert outage.must_log_in()
    assert not outage.must_log_in()


@pytest.mark.parametrize("failure", [LoginError("wrong password"), UsageError("x"), NoPermissionError("x")])
def test_what_waiting_does_not_mend_is_the_end(failure: QosctlError) -> None:
    with pytest.raises(type(failure)):
        recovery().after(failure, 1)


def test_a_hotels_page_is_waited_out() -> None:
    outage = recovery()
    for now in range(3 * REFUSALS_MAX):
        outage.after(UntrustedError("another certificate"), now)


def test_a_server_that_refuses_for_long_is_believed() -> None:
    outage = recovery()
    for now in range(REFUSALS_MAX):
        outage.after(RefusedError("503"), now)
    with pytest.raises(RefusedError, match="503"):
        outage.after(RefusedError("503"), 100)


def test_a_cookie_is_fresh_until_it_has_served_or_the_server_may_have_forgotten_it() -> None:
    account = Account(PasswordLogin("alice", str))
    assert not account.fresh(0.0)
    account.remember(CookieLogin("c2VjcmV0"), 100.0)
    assert account.fresh(100.0 + FRESH_S - 1)
    assert not account.fresh(100.0 + FRESH_S)
    account.accepted()
    assert not account.fresh(101.0)
    assert not Account(CookieLogin("c2VjcmV0")).fresh(0.0)


def test_an_account_goes_back_to_its_password_and_shows_nothing() -> None:
    password, cookie = PasswordLogin("alice", str), CookieLogin("c2VjcmV0")
    account = Account(password)
    seen: list[object] = [account.needs]
    account.remember(cookie, 100.0)
    seen.append(account.needs)
    assert "c2VjcmV0" not in repr(account) + repr(vars(account))
    account.forget_cookie()
    seen.append(account.needs)
    assert seen == [password, cookie, password]
    only = Account(CookieLogin("c2VjcmV0"))
    only.forget_cookie()
    assert only.needs == CookieLogin("c2VjcmV0")
    assert not only.can_log_in
