"""What becomes of a session that ended: waits, logins, and when it is over."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError, RefusedError, UsageError
from qosctl.dtls.account import Account
from qosctl.dtls.anyconnect import LoginError
from qosctl.dtls.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.dial import UnreachableError
from qosctl.dtls.reconnect import LONG_OUTAGE_S, LONG_WAIT_MAX_S, REFUSALS_MAX, WAIT_MAX_S, Backoff, Reason, Recovery
from qosctl.dtls.session import CookieRefusedError, NoDtlsError
from qosctl.dtls.trust import UntrustedError

NOBODY = UnreachableError("nobody there")
COOKIE = CookieRefusedError("no such cookie")
ENDED = NotAttachedError("the server ended the session")


def recovery(reason: Reason = Reason.SERVER_CLOSED, *, can_log_in: bool = True, patience_s: float = math.inf) -> Recovery:
    return Recovery(reason, ENDED, can_log_in=can_log_in, patience_s=patience_s, random=lambda: 0.0, now=0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 5000))
def test_waits_are_bounded_and_jittered_downwards(chances: list[float], outage_s: float) -> None:
    backoff = Backoff(iter(chances).__next__)
    most = WAIT_MAX_S if outage_s < LONG_OUTAGE_S else LONG_WAIT_MAX_S
    waits = [backoff.next_wait(outage_s) for _ in chances]
    assert waits[0] == 0.0
    assert all(0 < wait <= most for wait in waits[1:])
    assert all(wait >= most / 2 for wait in waits[10:])
    backoff.reset()
    with pytest.raises(StopIteration):
        backoff.next_wait(outage_s)


def test_nobody_there_is_tried_for_ever() -> None:
    outage = recovery(can_log_in=False)
    waits = [outage.after(NOBODY, now) for now in range(1000)]
    assert waits[:6] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(waits[6:600]) == {WAIT_MAX_S}
    assert waits[-1] == LONG_WAIT_MAX_S


def test_patience_ends() -> None:
    outage = recovery(patience_s=10)
    outage.after(NOBODY, 9.9)
    with pytest.raises(UnreachableError):
        outage.after(NOBODY, 10)


@pytest.mark.parametrize("reason", [Reason.SERVER_CLOSED, Reason.SESSION_TIMEOUT, Reason.SERVER_SILENT])
def test_a_refused_cookie_means_a_login_at_once(reason: Reason) -> None:
    outage = recovery(reason)
    assert outage.after(COOKIE, 1) == 0.0
    assert outage.log_in
    with pytest.raises(CookieRefusedError):
        outage.after(COOKIE, 2)


def test_a_refused_cookie_without_a_password_is_the_end() -> None:
    with pytest.raises(CookieRefusedError):
        recovery(can_log_in=False).after(COOKIE, 1)


def test_a_goodbye_and_a_refused_cookie_at_once_is_somebodys_will() -> None:
    with pytest.raises(NotAttachedError) as caught:
        recovery(Reason.SERVER_GOODBYE).after(COOKIE, 1)
    assert caught.value is ENDED


def test_a_goodbye_of_a_server_that_then_was_away_is_a_restart() -> None:
    outage = recovery(Reason.SERVER_GOODBYE)
    outage.after(NOBODY, 1)
    assert outage.after(COOKIE, 2) == 0.0
    assert outage.log_in


@pytest.mark.parametrize(
    "failure", [LoginError("wrong password"), UsageError("x"), NoPermissionError("x"), NoDtlsError("x")]
)
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


def test_an_account_goes_back_to_its_password_and_shows_nothing() -> None:
    password, cookie = PasswordLogin("alice", str), CookieLogin("c2VjcmV0")
    account = Account(password)
    seen: list[object] = [account.needs]
    account.remember(cookie)
    seen.append(account.needs)
    assert "c2VjcmV0" not in repr(account) + repr(vars(account))
    account.forget_cookie()
    seen.append(account.needs)
    assert seen == [password, cookie, password]
    only = Account(CookieLogin("c2VjcmV0"))
    only.forget_cookie()
    assert only.needs == CookieLogin("c2VjcmV0")
    assert not only.can_log_in
