"""The little of HTTP/1.1 that such a VPN protocol uses (RFC 9112): bytes in, responses out, no I/O.

Everything a server sends is hostile until parsed: line length, number of fields and body length are bounded, and
what does not fit is a ResponseError, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.bpf.errors import RefusedError

LINE_BYTES_MAX = 8192
FIELDS_MAX = 256
BODY_BYTES_MAX = 65536

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\Z")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*\Z")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,9}\Z")
COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]{1,4096}\Z")
"""Cookie-octets of RFC 6265 section 4.1.1, and not without end."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class ResponseError(RefusedError):
    """The server's answer is no HTTP/1.1 response we can read."""


@dataclass(frozen=True)
class Response:
    """One response; field names are in lower case, in the order they came, and may repeat."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return the values of every field called `name`, in lower case."""
        return [value for key, value in self.fields if key == name]

    def first(self, name: str) -> str | None:
        """Return the value of the first field called `name`, in lower case, or None."""
        return next((value for key, value in self.fields if key == name), None)

    def cookie(self, name: str) -> str | None:
        """Return the last value set for a cookie, None when there is none or it is set to nothing (RFC 6265).

        A value that no cookie may have is none: it would come back in a header of ours.
        """
        value = None
        for field in self.all("set-cookie"):
            key, equals, rest = field.partition(";")[0].partition("=")
            if equals and key.strip() == name:
                value = rest.strip().strip('"')
        return value if value and COOKIE_VALUE.match(value) else None


def request(method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes = b"") -> bytes:
    """Put a request together. ValueError where a value would end its line: it can only come from our side."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any(_UNSAFE.search(line) for line in lines):
        raise ValueError("a control character in a request header")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class ResponseReader:
    """Reads one response from pieces of any size.

    `feed` until it returns a response; what came behind it is in `rest`. `expect_body` is False for CONNECT, whose
    success is followed by the tunnel's bytes whatever Content-Length says (RFC 9110 section 9.3.6).
    """

    def __init__(self, *, expect_body: bool = True) -> None:
        self._buffer = bytearray()
        self._expect_body = expect_body
        self._head: tuple[int, str] | None = None
        self._fields: list[tuple[str, str]] = []
        self._body_length: int | None = None

    @property
    def rest(self) -> bytes:
        """What was fed beyond the response."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Response | None:
        """Take more bytes; return the response once it is whole. ResponseError when it cannot become one."""
        self._buffer += data
        while self._body_length is None:
            line = self._take_line()
            if line is None:
                return None
            self._take_head(line)
        if len(self._buffer) < self._body_length or self._head is None:
            return None
        body = bytes(self._buffer[: self._body_length])
        del self._buffer[: self._body_length]
        return Response(*self._head, tuple(self._fields), body)

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", 0, LINE_BYTES_MAX)
        if end < 0:
            if len(self._buffer) >= LINE_BYTES_MAX:
                raise ResponseError(f"the server sent a header line longer than {LINE_BYTES_MAX} bytes")
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _take_head(self, line: bytes) -> None:
        if self._head is None:
            status = _STATUS_LINE.match(line)
            if status is None:
                raise ResponseError("the server does not speak HTTP/1.1")
            self._head = int(status[1]), (status[2] or b"").decode("latin-1").strip()
            return
        if not line:
            self._body_length = self._length_of_body(self._head[0])
            return
        field = _FIELD_LINE.match(line)
        if field is None:
            raise ResponseError("the server sent a header line without a name")
        if len(self._fields) >= FIELDS_MAX:
            raise ResponseError(f"the server sent more than {FIELDS_MAX} header lines")
        self._fields.append((field[1].decode("ascii").lower(), field[2].decode("latin-1")))

    def _length_of_body(self, status: int) -> int:
        if status < 200 or status in {204, 304} or (status < 300 and not self._expect_body):
            return 0
        if any(name == "transfer-encoding" for name, _ in self._fields):
            raise ResponseError("the server sent a transfer coding, which no AnyConnect server does")
        lengths = {value for name, value in self._fields if name == "content-length"}
        if not lengths:
            return 0
        length = lengths.pop()
        if lengths or not _CONTENT_LENGTH.match(length) or int(length) > BODY_BYTES_MAX:
            raise ResponseError("the server sent a body of a length we do not take")
        return int(length)
