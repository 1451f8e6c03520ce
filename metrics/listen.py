"""Where to serve: an address and a port, from the text of --listen, and the names that lead there (hosts.py).

Names are not looked up, so the parser is total:

24740               port alone: on 127.0.0.1
192.0.2.1:24740     IPv4
[2001:db8::1]:24740 IPv6; [fe80::1%eth0]:24740 with its link
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qosctl.bpf.errors import UsageError

LOOPBACK = "127.0.0.1"
# Exporters' usual range, 9100 to 9999, is given away to the last number on Prometheus' list; this one is free there, is
# below the ports that Linux gives to clients, and is easy to keep in mind: RFC 2474 defines the DSCP.
DEFAULT_PORT = 24740
PORT_MAX = 65535

_HINT = f"--listen {LOOPBACK}:{DEFAULT_PORT}, --listen [::1]:{DEFAULT_PORT}"


@dataclass(frozen=True)
class Listen:
    """A numeric IPv4 or IPv6 address and a TCP port; port 0 lets the kernel choose. `names` are other names of it."""

    address: str
    port: int
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


DEFAULT = Listen(LOOPBACK, DEFAULT_PORT)


def parse_listen(text: str) -> Listen:
    """Read ADDRESS:PORT, [ADDRESS]:PORT or PORT; anything else is a UsageError that says what is wrong with it."""
    address, colon, port = text.rpartition(":")
    if not colon:
        return Listen(LOOPBACK, _port(port, text))
    return Listen(_address(address, text), _port(port, text))


def _port(digits: str, text: str) -> int:
    if digits.isascii() and digits.isdigit() and len(digits) <= len(str(PORT_MAX)) and int(digits) <= PORT_MAX:
        return int(digits)
    raise UsageError(f"{text!r} has no port from 0 to {PORT_MAX} at its end", _HINT)


def _address(host: str, text: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise UsageError(f"{text!r} does not begin with a numeric address", _HINT) from None
    if bracketed != (address.version == 6):
        raise UsageError(f"{text!r}: square brackets go around IPv6 addresses, and only those", _HINT)
    return str(address)
