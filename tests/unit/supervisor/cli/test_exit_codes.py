"""How a command ends: one line, one exit code a kind of error, and no traceback that nobody asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from qosctl.bpf.errors import DismissedError, InternalError, NoRoomError, NotAttachedError, QosctlError, RefusedError
from qosctl.dtls.session.tls_control import SessionEndedError, SilentError
from qosctl.dtls.vpn.errors import CookieRefusedError, LoginError
from qosctl.supervisor.cli.commands import status
from qosctl.supervisor.cli.main import main
from qosctl.supervisor.output.exit_codes import Exit, exit_for


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError("x"), 2),
        (NotAttachedError("x"), 3),
        (SilentError("x"), 3),
        (LoginError("wrong password"), 5),
        (CookieRefusedError("x"), 5),
        (DismissedError("x"), 6),
        (SessionEndedError("x"), 3),
        (NoRoomError("x"), 7),
        (InternalError.of(KeyError("x")), 70),
        (QosctlError("x"), 2),
    ],
)
def test_the_nearest_class_decides(error: QosctlError, code: int) -> None:
    assert exit_for(error) == code


def _raising(error: BaseException) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


@pytest.mark.audit
def test_what_nobody_expected_is_one_line_and_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding 4: a traceback ended with status 1, which is usage, and no unit came back from it."""
    monkeypatch.setattr(status, "run", _raising(RecursionError("too deep\nby far")))
    out, err = io.StringIO(), io.StringIO()
    assert main(["status"], out, err) == Exit.INTERNAL
    assert err.getvalue() == r"qosctl: internal error: RecursionError: too deep\nby far (try: --debug, and report it)" "\n"
    assert not out.getvalue()


def test_with_json_it_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", _raising(ZeroDivisionError()))
    out = io.StringIO()
    assert main(["status", "--json"], out, io.StringIO()) == Exit.INTERNAL
    assert json.loads(out.getvalue())["error"]["exit_code"] == Exit.INTERNAL


@pytest.mark.parametrize(("error", "code"), [(ValueError("x"), 70), (LoginError("x"), 5), (OSError(5, "x"), 2)])
def test_debug_shows_where_and_changes_no_code(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", _raising(error))
    err = io.StringIO()
    assert main(["status", "--debug"], io.StringIO(), err) == code
    assert err.getvalue().startswith("Traceback")
    assert err.getvalue().splitlines()[-1].startswith("qosctl: ")


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", _raising(KeyboardInterrupt()))
    err = io.StringIO()
    assert main(["status"], io.StringIO(), err) == Exit.INTERRUPTED
    assert not err.getvalue()
