"""`qosctl connect https://HOST[:PORT] -u USER`."""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from qosctl.bpf.errors import RefusedError, UsageError
from qosctl.dtls.anyconnect.protocol import ANYCONNECT
from qosctl.dtls.client import connect
from qosctl.dtls.events import Severity
from qosctl.dtls.numbering.plain import Numbering, PlainNumbering
from qosctl.dtls.numbering.switched import SwitchedNumbering
from qosctl.dtls.options import ConnectedInfo, ConnectOptions
from qosctl.dtls.session.factories import PLAIN, Factories
from qosctl.dtls.transport.certificate_check import Authorities, Pin, SystemTrust, Trust
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.vpn.credentials import CookieLogin, Credentials, PasswordLogin
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.supervisor.cli import secrets
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log
from qosctl.supervisor.process import privileges, system_calls
from qosctl.supervisor.tunnel.privilege_separation import stand
from qosctl.supervisor.tunnel.vpnc_script import NONE, USUAL, choose

_PROTOCOL = ANYCONNECT
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NUMBERINGS: dict[str, Callable[[int], Numbering]] = {"replay-safe": SwitchedNumbering, "plain": PlainNumbering}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the server, the login and whom to trust."""
    parser.add_argument("url", metavar="URL", help="the server: https://HOST[:PORT]")
    parser.add_argument("-u", "--user", help="user name to log in with")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--passwd-on-stdin", action="store_true", help="read the password from standard input")
    secret.add_argument("--password-file", metavar="FILE", help="read the password from FILE (mode 0600)")
    secret.add_argument(
        "--cookie-on-stdin",
        action="store_true",
        help="read a session cookie from standard input: openconnect --authenticate logs in by every method it knows",
    )
    secret.add_argument("--cookie-file", metavar="FILE", help="read a session cookie from FILE (mode 0600)")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", metavar="FILE", help="trust the authorities in this PEM file, not the system's")
    trust.add_argument("--servercert", metavar="PIN", help="trust the one key with this pin-sha256:BASE64")
    parser.add_argument(
        "-i", "--interface", metavar="NAME", help="name of the tunnel device (default: the kernel's choice)"
    )
    parser.add_argument(
        "-s",
        "--script",
        metavar="FILE",
        help="have FILE set addresses, routes and DNS as vpnc-script does, which is taken where it is installed;"
        " none: only addresses",
    )
    parser.add_argument(
        "--kill-switch",
        choices=["on", "off"],
        help="on: what the server's routes put inside the tunnel leaves by no other way, until you end it, whatever becomes"
        " of the tunnel, the client and the machine's routes (the default where vpnc-script sets them)",
    )
    parser.add_argument(
        "-U",
        "--setuid",
        metavar="NAME",
        help="give up root for the user NAME before the server is spoken to (needs root at the start)",
    )
    parser.add_argument(
        "--reconnect-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=math.inf,
        help="how long to try to get a session back that was lost; 0 to end with it (default: as long as it takes)",
    )
    parser.add_argument(
        "--numbering",
        choices=list(_NUMBERINGS),
        default="replay-safe",
        help="replay-safe: number records so that what marked ones overtake is not dropped as a replay (default); plain: in"
        " order",
    )
    said = parser.add_mutually_exclusive_group()
    said.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")
    said.add_argument("-v", "--verbose", action="store_true", help="say also what is being tried")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Connect, say so, and stay until SIGINT, SIGTERM or SIGHUP, which is a terminal that closes."""
    user = privileges.find_user(arguments.setuid) if arguments.setuid else None
    server = str(Gateway.parse(arguments.url))
    script = choose(arguments.script)
    guarded = _is_guarded(arguments.kill_switch, script)
    log = Log(sys.stderr, os.environ, least=_least(arguments))
    with ExitStack() as stack:
        stop = stack.enter_context(_stop_on_signals())
        place = stack.enter_context(stand(server, arguments.interface, script, log.warning, guarded=guarded))
        options = _options(arguments, stop, place.known)
        privileges.drop(user)  # nothing of the network has been read yet, and the helper does what takes a privilege
        _give_up_calls(log)
        # What is loaded by now stays: looking through it for garbage would keep packets waiting for 10 ms at a time.
        gc.freeze()
        connect(
            options,
            stop,
            keeper=place.keeper,
            marker=place.marker,
            sockets=place.sockets,
            configurator=place.configurator,
            on_connected=lambda info: None if arguments.quiet else _say_connected(info, out),
            on_statistics=place.marker.publish,
            on_event=log.say,
            factories=_factories(arguments, log),
        )
    return Exit.FINE


def _give_up_calls(log: Log) -> None:
    """Make no system call any more that a client has no use for, where the machine can see to that."""
    try:
        system_calls.give_up(system_calls.clients(os.getpid()), foreign=False)
    except RefusedError as error:  # the tunnel matters more
        log.say(Severity.DEBUG, f"no system call is given up: {error}")


def _is_guarded(wanted: str | None, script: str) -> bool:
    """Whether what belongs inside is held there. Other scripts than vpnc-script choose the routes themselves."""
    if wanted == "on" and script == NONE:
        raise UsageError("--kill-switch on: without a script no routes lead into the tunnel", "--script FILE")
    return script in map(str, USUAL) if wanted is None else wanted == "on"


def _options(arguments: argparse.Namespace, stop: Stop, known: str | None) -> ConnectOptions:
    return ConnectOptions(
        url=arguments.url,
        credentials=_credentials(arguments, stop),
        protocol=_PROTOCOL,
        trust=_trust(arguments),
        tunnel_name=arguments.interface,
        numbering=_NUMBERINGS[arguments.numbering],
        reconnect_s=arguments.reconnect_timeout,
        known=known,
    )


def _least(arguments: argparse.Namespace) -> Severity:
    if arguments.debug:
        return Severity.DEBUG
    if arguments.verbose:
        return Severity.INFO
    return Severity.WARNING if arguments.quiet else Severity.NOTICE


def _factories(arguments: argparse.Namespace, log: Log) -> Factories:
    if not arguments.debug:
        return PLAIN
    from qosctl.dtls.packet_log import traced  # noqa: PLC0415 - for those who look on

    return traced(lambda line: log.say(Severity.DEBUG, line), time.monotonic, _PROTOCOL)


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:  # nan is none either
        raise ValueError(text)
    return value


def _credentials(arguments: argparse.Namespace, stop: Stop) -> Credentials:
    if arguments.cookie_on_stdin:
        return CookieLogin.parse(secrets.from_stdin(stop), _PROTOCOL.cookie_name)
    if arguments.cookie_file:
        return CookieLogin.parse(secrets.from_file(arguments.cookie_file), _PROTOCOL.cookie_name)
    if not arguments.user:
        raise UsageError("who logs in?", "-u USER, or --cookie-on-stdin")
    if arguments.passwd_on_stdin:
        return PasswordLogin(arguments.user, functools.cache(lambda: secrets.from_stdin(stop)))
    if arguments.password_file:
        password = secrets.from_file(arguments.password_file)
        return PasswordLogin(arguments.user, lambda: password)
    whose = f"assword of {arguments.user}"
    # Asked once: a session that has to be begun anew at night finds nobody to ask.
    asked = functools.cache(lambda: secrets.from_prompt(f"P{whose}: ", stop, what=f"the p{whose}"))
    return PasswordLogin(arguments.user, asked)


def _trust(arguments: argparse.Namespace) -> Trust:
    if arguments.ca:
        return Authorities.read(arguments.ca)
    if arguments.servercert:
        return Pin.parse(arguments.servercert)
    return SystemTrust()


def _say_connected(info: ConnectedInfo, out: TextIO) -> None:
    addresses = ", ".join(str(address) for address in info.addresses)
    local, remote = (
        f"{address}:{port}" if ":" not in address else f"[{address}]:{port}" for address, port in (info.local, info.remote)
    )
    lines = [f"connected {info.tunnel}: {addresses}, mtu {info.mtu}"]
    lines.append(f"    outer {local} -> {remote}, {info.dtls or info.tls}")
    if info.marked:
        lines.append("    records are marked wherever the way out is attached and passtos is on (qosctl status)")
    with suppress(OSError):  # a tunnel is there for others than whoever reads this
        print("\n".join(lines), file=out, flush=True)


@contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """Yield the stop that signals ask for."""
    stop = Stop()
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [number for number in _SIGNALS if not (under_nohup and number is signal.SIGHUP)]
    before = {number: signal.signal(number, lambda *_: stop.request()) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
