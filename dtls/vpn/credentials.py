"""How a user proves who they are: a password, or the cookie of a login made elsewhere.

Neither shows in a repr, so neither shows in a log or a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qosctl.bpf.errors import UsageError
from qosctl.dtls.vpn.http import COOKIE_VALUE


@dataclass(frozen=True)
class PasswordLogin:
    """A user name and a source of the password, which is asked once and only when the server wants one."""

    username: str
    password: Callable[[], str] = field(repr=False)


@dataclass(frozen=True)
class CookieLogin:
    """The value of a session's cookie, such as `openconnect --authenticate` prints as COOKIE."""

    cookie: str = field(repr=False)

    def __post_init__(self) -> None:
        if not COOKIE_VALUE.match(self.cookie):
            raise UsageError("the cookie holds characters that no cookie has", "openconnect --authenticate")

    @classmethod
    def parse(cls, text: str, name: str) -> CookieLogin:
        """Take the bare value, or a list of cookies as openconnect prints it (`OTHER=VALUE; NAME=VALUE`).

        UsageError when it cannot be one.
        """
        parts = [part.strip() for part in text.split(";")]
        named = [part.removeprefix(f"{name}=") for part in parts if part.startswith(f"{name}=")]
        return cls(named[0] if named else text.strip())


Credentials = PasswordLogin | CookieLogin
