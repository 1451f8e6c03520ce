"""A server's address as the user writes it: https://HOST[:PORT][/path]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from qosctl.bpf.errors import UsageError

HTTPS_PORT = 443
_HOST = re.compile(r"[0-9A-Za-z._:%-]{1,255}\Z")
_PATH = re.compile(r"/[!-~]*\Z")


@dataclass(frozen=True)
class Gateway:
    """Where the server is: `host` is ASCII (a name, IPv4, or IPv6 without brackets), `path` begins with a slash."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Gateway:
        """Take a URL apart; the scheme may be left out. UsageError says what is wrong with it.

        A name that is not ASCII is looked up as IDNA 2008 has it (RFC 5891, UTS 46 without transition), as browsers do:
        by the rules of 2003 faß.example would be fass.example, which is somebody else's.
        """
        hint = "https://vpn.example or https://vpn.example:4443"
        if "@" in url:  # and the URL, which may hold a password, is not repeated
            raise UsageError("a URL is no place for a user name or a password", hint)
        if any(ord(character) <= ord(" ") for character in url):
            raise UsageError(f"{url!r}: blanks in a URL", hint)
        try:
            parts = urlsplit(url if "://" in url else f"https://{url}")
            port = parts.port
            host = _ascii(parts.hostname or "")
        except ValueError as error:
            raise UsageError(f"{url}: not a URL: {error}", hint) from None
        if parts.scheme != "https":
            raise UsageError(f"{url}: only https is spoken here", hint)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not _HOST.match(host) or not _PATH.match(path) or port == 0:
            raise UsageError(f"{url}: not a URL with a host", hint)
        return cls(host, HTTPS_PORT if port is None else port, path)

    @property
    def authority(self) -> str:
        """The Host header's value (RFC 9112 section 3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ascii(name: str) -> str:
    """Return the form of a host name that DNS and certificates carry; ValueError where there is none."""
    if name.isascii():
        return name
    import idna  # noqa: PLC0415 - its tables cost 20 ms, which few names need

    return idna.encode(name, uts46=True).decode()
