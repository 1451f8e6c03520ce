"""The CONNECT request, and what the server gives in answer to it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_interface

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.printable import short_line
from qosctl.dtls.anyconnect.login import SESSION_COOKIE, common_fields
from qosctl.dtls.anyconnect.network_fields import DECIMAL, parse_network, seconds
from qosctl.dtls.ip_sizes import IPV6_MTU_MIN
from qosctl.dtls.vpn.credentials import CookieLogin
from qosctl.dtls.vpn.errors import CookieRefusedError
from qosctl.dtls.vpn.http import Response, request
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import ADDRESSES_MAX, TUNNEL_MTU_MIN, Interface, Session, Timers, is_tunnels

APP_ID_BYTES = 32
REKEY_MIN_S = 5
"""A server that wants new keys more often gets them this often."""


def connect_request(gateway: Gateway, login: CookieLogin, hostname: str, base_mtu: int) -> bytes:
    """Return the CONNECT request; `base_mtu` is the MTU of the path to the server in bytes.

    No compression is asked for: it would make the length of a record tell what is in it.
    """
    return request(
        "CONNECT",
        "/CSCOSSLC/tunnel",
        [
            *common_fields(gateway),
            ("Cookie", f"{SESSION_COOKIE}={login.cookie}"),
            ("X-CSTP-Version", "1"),
            ("X-CSTP-Hostname", re.sub(r"[^0-9A-Za-z.-]", "-", hostname)[:64] or "localhost"),
            ("X-CSTP-Base-MTU", str(base_mtu)),
            ("X-CSTP-Address-Type", "IPv6,IPv4"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
            ("X-DTLS-CipherSuite", "PSK-NEGOTIATE"),
        ],
    )


def parse_session(response: Response, gateway: Gateway) -> Session:
    """Read the answer to CONNECT. Raises RefusedError alone: the server refuses, or its answer makes no sense."""
    if response.status == 401:
        raise CookieRefusedError(f"{gateway}: the server does not know the cookie any more", "log in again")
    if response.status != 200:
        why = short_line(response.first("x-reason") or response.reason)
        raise RefusedError(
            f"{gateway}: the server refuses the tunnel: {response.status} {why}".rstrip(),
            "log in again; if that does not help, the server's operator",
        )
    number = _numbers(response)
    base_mtu = number("x-cstp-base-mtu", TUNNEL_MTU_MIN, 65535, 1500)
    mtu = number("x-cstp-mtu", TUNNEL_MTU_MIN, 65535, base_mtu)
    addresses = _addresses(response)
    if mtu < IPV6_MTU_MIN:
        addresses = tuple(address for address in addresses if address.version == 4)
    if not addresses:
        raise RefusedError(f"{gateway}: the server gives no address for the tunnel")
    no_dtls = _why_no_dtls(response)
    return Session(
        addresses=addresses,
        mtu=mtu,
        base_mtu=base_mtu,
        tls=Timers(number("x-cstp-dpd", 0, 86400, 0), number("x-cstp-keepalive", 0, 10**9, 0)),
        dtls=Timers(number("x-dtls-dpd", 0, 86400, 0), number("x-dtls-keepalive", 0, 10**9, 0)),
        dtls_port=number("x-dtls-port", 1, 65535, gateway.port),
        app_id=b"" if no_dtls else _app_id(response.first("x-dtls-app-id") or "", gateway),
        server=short_line(response.first("x-cstp-server-name") or ""),
        rekey_s=_rekey_s(response, number),
        timeout_s=seconds(response, "x-cstp-session-timeout-remaining") or seconds(response, "x-cstp-session-timeout"),
        network=parse_network(response),
        no_dtls=no_dtls,
    )


def _why_no_dtls(response: Response) -> str:
    """Return why the session has no DTLS channel that we can speak to; empty where it has one."""
    if response.first("x-dtls-ciphersuite") == "PSK-NEGOTIATE" and response.first("x-dtls-app-id") is not None:
        return ""
    if any(response.first(name) for name in ("x-dtls-session-id", "x-dtls-ciphersuite", "x-dtls12-ciphersuite")):
        return "the server offers only a DTLS that qosctl does not speak (no PSK-NEGOTIATE)"
    return "the server offers no DTLS"


def _rekey_s(response: Response, number: Callable[[str, int, int, int], int]) -> int:
    """Return the sooner of the two channels' times.

    Of the methods, `ssl` is a renegotiation, which TLS 1.3 does not have and which leaves the old keys' cookie and
    session alone; `new-tunnel` takes another session with the same cookie. The second does all that the first does.
    """
    wanted = [
        number(f"x-{channel}-rekey-time", 0, 10**9, 0)
        for channel in ("cstp", "dtls")
        if response.first(f"x-{channel}-rekey-method") not in {None, "none"} or channel == "dtls"
    ]
    return min((max(time, REKEY_MIN_S) for time in wanted if time), default=0)


def _numbers(response: Response) -> Callable[[str, int, int, int], int]:
    def number(name: str, least: int, most: int, default: int) -> int:
        text = response.first(name)
        if text is None:
            return default
        if not DECIMAL.match(text) or not least <= int(text) <= most:
            raise RefusedError(f"the server sends {name} {short_line(text)}, which is not within {least} to {most}")
        return int(text)

    return number


def _app_id(text: str, gateway: Gateway) -> bytes:
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * APP_ID_BYTES}}}", text):
        raise RefusedError(f"{gateway}: the server sends an X-DTLS-App-ID that is none")
    return bytes.fromhex(text)


def _addresses(response: Response) -> tuple[Interface, ...]:
    """Pair addresses with netmasks, of which there may be two each; X-CSTP-Address-IP6 carries its own prefix."""
    bare = response.all("x-cstp-address")
    masks = response.all("x-cstp-netmask")
    texts = [*response.all("x-cstp-address-ip6")]
    for text in bare:
        try:
            version = ip_address(text).version
        except ValueError:
            raise _bad_address(text) from None
        if version == 4:
            mask = next((mask for mask in masks if ":" not in mask), "255.255.255.255")
        else:
            # Either a prefix length behind a slash, or another way to write what X-CSTP-Address-IP6 says.
            mask = next((mask.rpartition("/")[2] for mask in masks if ":" in mask), "128")
        texts.append(f"{text}/{mask}")
    found: list[Interface] = []
    for text in texts[:ADDRESSES_MAX]:
        try:
            address = ip_interface(text)
        except ValueError:
            raise _bad_address(text) from None
        if "%" in text or not is_tunnels(address):  # a zone is any text, and means nothing here
            raise _bad_address(text)
        if all(address.ip != other.ip for other in found):
            found.append(address)
    return tuple(sorted(found, key=lambda address: address.version))


def _bad_address(text: str) -> RefusedError:
    return RefusedError(f"the server gives {short_line(text)} as the tunnel's address, which is none")
