"""Whom a request has to be addressed to: the defence against DNS rebinding.

A web page may make the browser ask its own host name, and let that name lead to 127.0.0.1 the second time: the browser then
reads our answer to the page. It cannot choose the Host header, which holds the page's name (RFC 9110 section 7.2). So an
answer is for an address, for localhost, and for the names that the operator gives; no page has one of these by itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from qosctl.bpf.errors import UsageError

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Za-z:.%]+\]|[^\[\]:]+)(:[0-9]{0,5})?\Z")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_NAME_MAX = 253  # RFC 1035 section 2.3.4, as text


def parse_names(words: Iterable[str]) -> frozenset[str]:
    """Return host names in lower case, without the root's dot; UsageError for what is none."""
    names = frozenset(_plain(word) for word in words)
    for name in names:
        if len(name) > _NAME_MAX or not _NAME.match(name):
            raise UsageError(f"{name!r} is no host name", "node1.example, without a scheme or a port")
    return names


def is_addressed_to(host: str, names: frozenset[str]) -> bool:
    """Say whether a request with this Host header is to be answered."""
    parts = _AUTHORITY.match(host)
    if parts is None:
        return False
    name = _plain(parts["host"])
    return name == "localhost" or name in names or _is_address(name)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    bracketed = text.startswith("[")
    try:
        address = ipaddress.ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        return False
    return bracketed == (address.version == 6)
