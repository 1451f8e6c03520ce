"""How a login or a session is refused, whatever the protocol."""

from __future__ import annotations

from qosctl.bpf.errors import LoginRefusedError, NoRoomError


class LoginError(LoginRefusedError):
    """The server does not let the user in by this name and password."""


class CookieRefusedError(LoginRefusedError):
    """The server does not know the cookie, or not any more."""


class PasswordUnansweredError(NoRoomError):
    """The password was sent, and no answer came: the server, or RADIUS behind it, may count it as a wrong one."""
