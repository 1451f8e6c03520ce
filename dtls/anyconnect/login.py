"""Logging in the AnyConnect way: which requests to make, and what the answers mean. No I/O.

A wrong password is also answered by status 200, with one more form: only the `webvpn` cookie is success.
"""

from __future__ import annotations

import re
from html import escape, unescape

from qosctl.bpf.errors import NoRoomError, RefusedError
from qosctl.bpf.printable import short_line
from qosctl.dtls.vpn.credentials import PasswordLogin
from qosctl.dtls.vpn.errors import LoginError
from qosctl.dtls.vpn.http import Response, request
from qosctl.dtls.vpn.server_url import Gateway

USER_AGENT = "Open AnyConnect VPN Agent v9 qosctl"
"""A server gives IPv6 and routes to agents it knows, by this beginning."""
SESSION_COOKIE = "webvpn"
_CONTEXT_COOKIE = "webvpncontext"

_ACTION = re.compile(rb"<form\b[^>]{0,512}?\baction=\"(/[!#-;=?-~]{0,512})\"", re.IGNORECASE)
_MESSAGE = re.compile(rb"<(message|error)\b[^>]{0,512}>([^<]{0,4096})</\1>", re.IGNORECASE)
_PASSWORD_INPUT = re.compile(rb"<input\b[^>]{0,512}?\btype=\"password\"", re.IGNORECASE)
_FAILED = re.compile(r"fail|invalid|incorrect|denied|wrong", re.IGNORECASE)


class Login:
    """One login by user name and password: `first_request`, then `answer` for each response until it gives None.

    The password is asked for once, when the server wants it, and sent once: a server that asks again after it did
    not like the first, and trying again would only lock the account.
    """

    def __init__(self, gateway: Gateway, credentials: PasswordLogin) -> None:
        self._gateway = gateway
        self._credentials = credentials
        self._context = ""
        self.password_sent = False
        self.cookie = ""

    def first_request(self) -> bytes:
        """Return the request that names the user."""
        return self._post(self._gateway.path, "username", self._credentials.username)

    def answer(self, response: Response) -> bytes | None:
        """Return the next request, or None once `cookie` holds the session. LoginError when there will be none."""
        cookie = response.cookie(SESSION_COOKIE)
        if cookie is not None:
            self.cookie = cookie
            return None
        self._context = response.cookie(_CONTEXT_COOKIE) or self._context
        message = _message(response.body)
        if response.status in {401, 403}:
            raise self._wrong_password()
        if response.status >= 500:
            raise NoRoomError(f"{self._gateway}: the server takes no logins now: {_status(response)}", "again later")
        if response.status != 200:
            raise RefusedError(
                f"{self._gateway}: the server answers the login with {_status(response)}",
                "the address that openconnect is given",
            )
        if self.password_sent:
            if _FAILED.search(message) or not message:
                raise self._wrong_password()
            raise LoginError(
                f"{self._credentials.username}: the server wants more than a password: {message}",
                "openconnect --authenticate, and its COOKIE",
            )
        if not _PASSWORD_INPUT.search(response.body):
            raise LoginError(
                f"{self._gateway}: the server asks for something other than a password",
                "openconnect --authenticate, and its COOKIE",
            )
        self.password_sent = True
        action = _ACTION.search(response.body)
        return self._post(action[1].decode() if action else "/auth", "password", self._credentials.password())

    def _wrong_password(self) -> LoginError:
        return LoginError(f"{self._credentials.username}: wrong password")

    def _post(self, path: str, element: str, value: str) -> bytes:
        # The server looks for the elements as substrings; the leading <?xml is what makes it answer in XML.
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<config-auth client="vpn" type="auth-reply">'
            f"<auth><{element}>{escape(value, quote=False)}</{element}></auth></config-auth>"
        ).encode(errors="surrogateescape")  # what was typed in another encoding leaves as it was typed
        fields = [*common_fields(self._gateway), ("Content-Type", "application/xml; charset=utf-8")]
        if self._context:
            fields.append(("Cookie", f"{_CONTEXT_COOKIE}={self._context}"))
        return request("POST", path, fields, body)


def common_fields(gateway: Gateway) -> list[tuple[str, str]]:
    """Return the header fields that every request carries."""
    return [
        ("Host", gateway.authority),
        ("User-Agent", USER_AGENT),
        ("X-Transcend-Version", "1"),
        ("X-Aggregate-Auth", "1"),
    ]


def _status(response: Response) -> str:
    return f"{response.status} {short_line(response.reason)}".strip()


def _message(body: bytes) -> str:
    found = _MESSAGE.search(body)
    return short_line(unescape(found[2].decode("utf-8", "replace"))) if found else ""
