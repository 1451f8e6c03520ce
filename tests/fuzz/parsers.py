"""Every parser that sees bytes from outside, fed from a seed: a value or a declared error comes out, nothing else.

    python -m tests.fuzz.parsers [--inputs N] [--seed S]

Inputs are genuine ones, mutated, and noise. One that breaks a promise is printed with its target, seed and position.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from qosctl.bpf.dscp import Ecn
from qosctl.bpf.errors import RefusedError, UsageError
from qosctl.dtls.anyconnect.connect_response import parse_session
from qosctl.dtls.anyconnect.frames import CstpDecoder, decode_dtls, encode_cstp, encode_dtls
from qosctl.dtls.anyconnect.login import Login
from qosctl.dtls.numbering.plain import FIRST_NUMBER
from qosctl.dtls.packets.ecn import combine
from qosctl.dtls.packets.inner_header import dscp_of
from qosctl.dtls.record.keys import Cipher
from qosctl.dtls.record.protection import APPLICATION_DATA, RecordOpener, RecordSealer
from qosctl.dtls.session.dpd_payload import DpdPayload
from qosctl.dtls.session.path_mtu import PathMtu
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.vpn.frames import FrameKind
from qosctl.dtls.vpn.http import Response, ResponseReader
from qosctl.dtls.vpn.server_url import Gateway

_GATEWAY = Gateway.parse("https://vpn.example")
_PASSWORD = "never in an error"
_ANSWER = (
    b"HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Server-Name: ocserv 1.1.6\r\nX-CSTP-DPD: 20\r\n"
    b"X-CSTP-Address: 192.168.77.50\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-Address-IP6: fd77::1/64\r\n"
    b"X-CSTP-Keepalive: 32400\r\nX-CSTP-Rekey-Time: 172800\r\nX-CSTP-Rekey-Method: new-tunnel\r\n"
    b"X-CSTP-Session-Timeout: none\r\nX-DTLS-DPD: 20\r\nX-DTLS-Port: 4443\r\nX-CSTP-Base-MTU: 1500\r\nX-CSTP-MTU: 1434\r\n"
    b"X-DTLS-App-ID: " + b"0f" * 32 + b"\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n\r\nSTF\x01"
)
_FORM = (
    b'<?xml version="1.0"?><config-auth><auth id="main"><message>Please enter</message>'
    b'<form method="post" action="/auth"><input type="password" name="password"/></form></auth></config-auth>'
)
_LOGIN = b"HTTP/1.1 200 OK\r\nSet-Cookie: webvpncontext=abc=; Secure\r\nContent-Length: %d\r\n\r\n" % len(_FORM) + _FORM
_WORDS = (b"\r\n", b"\n\n", b"Content-Length: 99999999999", b"Transfer-Encoding: chunked\r\n", b"\0", b"-1", b"::1/0",
          b"Set-Cookie: webvpn=x\r\n", b"\xff" * 40, b"A" * 9000, b"0.0.0.0", b"HTTP/1.1 100 Continue\r\n\r\n", b"STF\x01",
          b"<message>", b"&#0;&#1114112;", b"X-CSTP-Address: 10.0.0.1\r\n" * 20, "\u0663".encode())  # fmt: skip


class BrokenPromiseError(Exception):
    """A parser raised what it does not declare, or gave what it must not."""


def _http(data: bytes, chance: random.Random) -> None:
    reader = ResponseReader(expect_body=chance.random() < 0.5)
    at = 0
    while at < len(data):
        size = 1 + int(chance.random() * len(data))
        response = reader.feed(data[at : at + size])
        at += size
        if response is not None:
            _session(response)
            return


def _session(response: Response) -> None:
    login = Login(_GATEWAY, PasswordLogin("alice", lambda: _PASSWORD))
    login.first_request()
    try:
        if login.answer(response) is None:
            CookieLogin(login.cookie)
    except (RefusedError, UsageError) as error:
        if _PASSWORD in str(error) or not str(error).isprintable():
            raise BrokenPromiseError(str(error)) from None
    session = parse_session(response, _GATEWAY)
    for each in session.addresses:
        if each.network.prefixlen < (8 if each.version == 4 else 16) or each.is_loopback:
            raise BrokenPromiseError(f"{each} as an address")


def _cstp(data: bytes, chance: random.Random) -> None:
    decoder = CstpDecoder()
    cut = int(chance.random() * (len(data) + 1))
    for piece in (data[:cut], data[cut:]):
        for frame in decoder.feed(piece):
            if len(frame.payload) > len(data):
                raise BrokenPromiseError("a frame out of nothing")


def _dtls(data: bytes, _: random.Random) -> None:
    decode_dtls(data)
    if (found := DpdPayload.decode(data)) is not None:
        _PATH.echoed(found[1], len(data), 0.0)


def _inner(data: bytes, chance: random.Random) -> None:
    dscp_of(data)
    out = combine(data, Ecn(int(chance.random() * 4)))
    if out is not None and len(out) != len(data):
        raise BrokenPromiseError("a packet of another length")


_PATH = PathMtu(1434, 0.0)
_CIPHERS = tuple(Cipher)


def _sealed(cipher: Cipher, number: int, plaintext: bytes) -> bytes:
    sealer = RecordSealer(cipher, bytes(cipher.key_bytes), bytes(cipher.iv_bytes))
    out = memoryview(bytearray(len(plaintext) + sealer.overhead))
    return bytes(out[: sealer.seal_into(out, number, APPLICATION_DATA, plaintext)])


_GENUINE = {
    each: frozenset(_sealed(each, FIRST_NUMBER + n, bytes([n]) * (1 + 40 * n)) for n in range(6)) for each in _CIPHERS
}


def _records(data: bytes, chance: random.Random) -> None:
    cipher = _CIPHERS[int(chance.random() * len(_CIPHERS))]
    opener = RecordOpener(cipher, bytes(cipher.key_bytes), bytes(cipher.iv_bytes))
    for record in opener.open(data):
        if not any(genuine in data for genuine in _GENUINE[cipher]) or not FIRST_NUMBER <= record.number < FIRST_NUMBER + 6:
            raise BrokenPromiseError(f"record {record.number} is believed")


@dataclass(frozen=True)
class Target:
    """A parser, what it is fed, and what it may raise."""

    feed: Callable[[bytes, random.Random], None]
    genuine: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = ()


_PACKETS = (bytes([0x45, 0xB9]) + bytes(60), bytes([0x6B, 0x91]) + bytes(60), bytes(20))
TARGETS = {
    "http": Target(_http, (_ANSWER, _LOGIN), (RefusedError,)),
    "cstp": Target(_cstp, tuple(encode_cstp(kind, b"payload" * 9) * 2 for kind in FrameKind), (RefusedError,)),
    "dtls": Target(_dtls, tuple(encode_dtls(kind, b"payload!" * 9) for kind in FrameKind)),
    "inner": Target(_inner, _PACKETS),
    "records": Target(_records, tuple(record for each in _GENUINE.values() for record in sorted(each))),
}


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few changes, or noise."""
    r = chance.random
    if r() < 0.03:
        return chance.randbytes(int(r() * 200))
    changed = bytearray(data)
    for _ in range(1 + int(r() * r() * 6)):
        at = int(r() * (len(changed) + 1))
        kind = int(r() * 6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << int(r() * 8)
        elif kind == 1 and at < len(changed):
            changed[at] = int(r() * 256)
        elif kind == 2:
            del changed[at : at + 1 + int(r() * 20)]
        elif kind == 3:
            changed[at:at] = _WORDS[int(r() * len(_WORDS))]
        elif kind == 4:
            start = int(r() * (len(changed) + 1))
            changed[at:at] = changed[start : start + int(r() * 60)]
        else:
            del changed[at:]
    return bytes(changed)


def fuzz(seed: int, inputs: int, *, report: bool = False) -> dict[str, int]:
    """Feed `inputs` inputs, a share to each target; return how many each took without an error."""
    chance = random.Random(seed)
    taken = dict.fromkeys(TARGETS, 0)
    names = list(TARGETS)
    next_report = time.monotonic() + 30
    for position in range(inputs):
        name = names[position % len(names)]
        target = TARGETS[name]
        data = mutate(target.genuine[int(chance.random() * len(target.genuine))], chance)
        try:
            target.feed(data, chance)
        except target.errors as error:
            if not str(error).isprintable():
                raise BrokenPromiseError(f"{name}, seed {seed}, input {position}: {error!r}") from error
        except Exception as error:
            raise BrokenPromiseError(f"{name}, seed {seed}, input {position}: {data!r}: {error!r}") from error
        else:
            taken[name] += 1
        if report and position % 4096 == 0 and time.monotonic() > next_report:
            next_report += 30
            print(f"{position:,} inputs", file=sys.stderr)
    return taken


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.parsers", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="where to begin (default: anywhere)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    began = time.monotonic()
    try:
        taken = fuzz(arguments.seed, arguments.inputs, report=True)
    except BrokenPromiseError as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    for name, count in taken.items():
        print(f"{name:16}{count:>12,} understood")
    print(f"{arguments.inputs:,} inputs, nothing but declared errors, {arguments.inputs / seconds:,.0f} inputs/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
