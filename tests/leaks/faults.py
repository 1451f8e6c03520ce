"""What happens to a tunnel, by the names of the rows of docs/faults.md; and what happens to the machine around it."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.icmp import Forger
from tests.lab.lock import somebody_holds_the_lock
from tests.lab.openconnect import cookie_of
from tests.leaks.stage import DPD_S, ROUTER, Stage

NO_TUNNEL = frozenset({"secret file that others can read"})
"""Rows in which no tunnel comes about."""


@dataclass(frozen=True)
class Fault:
    """One fault. `ends`: the client is right to end. `server` is configuration of its own; `rows` are those it covers."""

    rows: tuple[str, ...]
    happen: Callable[[Stage], None]
    server: str = ""
    ends: bool = False
    suspends: bool = False
    without_ipv6: bool = False
    """Whether the server gives none any more: then only IPv4 carries again."""


def _device(stage: Stage, *words: str) -> None:
    stage.line.client.run(["ip", "link", "set", "dev", stage.line.device, *words])


def _ipv6_again(stage: Stage) -> None:
    """Give the client's device back what goes when it is set down."""
    stage.line.client.run(["ip", "addr", "replace", f"{stage.line.topology.client6}/64", "dev", stage.line.device, "nodad"])
    stage.line.client.run(["ip", "route", "replace", "default", "via", ROUTER[6], "dev", stage.line.device, "metric", "99"])


def restarted(stage: Stage) -> None:
    with stage.inside():
        stage.line.restart_server()


def killed(stage: Stage) -> None:
    with stage.inside():
        for pid in stage.line.server.pids():
            os.kill(pid, signal.SIGKILL)
        stage.line.restart_server()


def restarted_with_cookie(stage: Stage) -> None:
    with stage.inside(cookie=_cookie(stage)):
        stage.line.restart_server()
        stage.ends()


def cookie_expired(stage: Stage) -> None:
    with stage.inside(cookie=_cookie(stage)):
        with stage.line.topology.dropping():
            stage.leaks.tried(40)
            stage.line.server.stop()
        stage.line.restart_server()
        stage.ends()


def thrown_out(stage: Stage) -> None:
    with stage.inside():
        stage.line.server_namespace.run(["occtl", "-s", _OCCTL, "disconnect", "user", "alice"])
        Path(_OCCTL).unlink()
        stage.ends()


def client_killed(stage: Stage) -> None:
    with stage.inside():
        stage.client.kill()
        stage.leaks.tried(100)
        # Whoever hands out addresses does so again, as it happens within the hour.
        stage.line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4]])
        stage.leaks.tried(100)
        stage.client.start(stage.line.server, stage.line.topology.server4)


def second_client(stage: Stage) -> None:
    with stage.inside():
        second = type(stage.client)(stage.line)
        second.start(stage.line.server, stage.line.topology.server4)
        stage.until(lambda: not second.alive)


def time_is_up(stage: Stage) -> None:
    with stage.inside():
        stage.ends(6)


def new_keys(stage: Stage) -> None:
    with stage.inside():
        time.sleep(6)


def network_away(stage: Stage) -> None:
    router, device = stage.line.router, stage.line.topology.router_server_if
    with stage.inside():
        router.run(["ip", "link", "set", "dev", device, "down"])
        time.sleep(3 * DPD_S)
        router.run(["ip", "link", "set", "dev", device, "up"])
        router.run(["ip", "addr", "replace", "fd91:2::1/64", "dev", device, "nodad"])
        router.run(["ip", "-6", "route", "replace", "2001:db8::9", "via", "fd91:2::2"])
        router.run(["ip", "-4", "route", "replace", "203.0.113.9", "via", "10.91.2.2"])


def cable_pulled(stage: Stage) -> None:
    with stage.inside():
        _device(stage, "down")
        time.sleep(1)
        _device(stage, "up")
        stage.line.client.run(["ip", "route", "replace", "default", "via", ROUTER[4], "metric", "100"])
        _ipv6_again(stage)


def another_address(stage: Stage) -> None:
    client, device = stage.line.client, stage.line.device
    with stage.inside():
        client.run(["ip", "addr", "add", "10.91.1.77/24", "dev", device])
        client.run(["ip", "addr", "del", "10.91.1.2/24", "dev", device])
        client.run(["ip", "addr", "replace", "10.91.1.77/24", "dev", device])
        client.run(["ip", "route", "replace", "default", "via", ROUTER[4], "metric", "100"])


def better_route(stage: Stage) -> None:
    client, device = stage.line.client, stage.line.device
    with stage.inside():
        client.run(["ip", "addr", "add", "10.91.1.77/24", "dev", device])
        client.run(["ip", "route", "replace", "default", "via", ROUTER[4], "src", "10.91.1.77"])
        time.sleep(2)


def default_routes(stage: Stage) -> None:
    """As by DHCP and router advertisements, and halves of everything, as another VPN sets them."""
    with stage.inside():
        for words in (
            ["-4", "route", "replace", "default", "via", ROUTER[4]],
            ["-4", "route", "replace", "0.0.0.0/1", "via", ROUTER[4]],
            ["-4", "route", "replace", "128.0.0.0/1", "via", ROUTER[4]],
            ["-6", "route", "replace", "2000::/3", "via", ROUTER[6]],
        ):
            stage.line.client.run(["ip", *words])
            stage.leaks.tried(20)


def other_addresses(stage: Stage) -> None:
    other = "ipv4-network = 192.168.78.0\nipv6-network = fd78::/64\n"
    with stage.inside():
        stage.configure(stage.line.server, lambda text: text + other)


def ipv6_taken_away(stage: Stage) -> None:
    with stage.inside(patience=5):
        named = f"ipv6-network = {stage.line.server.network6}"
        stage.configure(stage.line.server, lambda text: text.replace(named, ""))


def stopped(stage: Stage) -> None:
    with stage.inside():
        stage.client.signal(signal.SIGSTOP)
        time.sleep(3 * DPD_S + 2)
        stage.client.signal(signal.SIGCONT)


def suspended(seconds: float) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        stage.slept.write_bytes(struct.pack("=d", 0.0))
        with stage.inside(slept=stage.slept):
            began = time.monotonic()
            stage.client.signal(signal.SIGSTOP)
            with stage.line.topology.dropping():
                time.sleep(seconds)
            with stage.slept.open("r+b") as file:  # in place: it is mapped
                file.write(struct.pack("=d", time.monotonic() - began))
            stage.client.signal(signal.SIGCONT)

    return happen


def udp_blocked(*ways: str) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        rules = "; ".join(f"udp {way} {stage.line.server.port} drop" for way in ways)
        with stage.inside():
            with stage.line.topology.dropping(rules):
                time.sleep(2)
                stage.settle()
            time.sleep(1)

    return happen


def udp_blocked_from_the_start(stage: Stage) -> None:
    with stage.line.topology.dropping(f"udp dport {stage.line.server.port} drop"), stage.inside():
        time.sleep(2)


def udp_blocked_beside_a_command_that_hangs(stage: Stage) -> None:
    with somebody_holds_the_lock():
        udp_blocked("dport", "sport")(stage)


def nat_forgets(stage: Stage) -> None:
    with stage.relay() as relay, stage.inside(host=ROUTER[4]):
        relay.rebind()
        time.sleep(1)


def tls_dies(how: str) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        with stage.relay() as relay, stage.inside(host=ROUTER[4]):
            relay.set(tcp=how)
            time.sleep(3 * DPD_S if how == "stall" else 1)
            relay.set(tcp="pass")

    return happen


def loses(stage: Stage) -> None:
    with stage.relay() as relay:
        relay.set(loss=0.3)
        with stage.inside(host=ROUTER[4]):
            time.sleep(3)
            relay.set(loss=0.0)


def swallows(largest: int) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        with stage.relay() as relay, stage.inside(host=ROUTER[4]):
            relay.set(largest=largest)
            for _ in range(12):
                _large(stage)

    return happen


def shrinks(mtu: int, outer: int = 4) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        line = stage.line
        with stage.inside(outer):
            for space, device in ((line.router, line.topology.router_server_if), (line.server_namespace, line.device)):
                space.run(["ip", "link", "set", "dev", device, "mtu", str(mtu)])
            for _ in range(4):
                _large(stage)

    return happen


def forged_icmp(outer: int) -> Callable[[Stage], None]:
    def happen(stage: Stage) -> None:
        topology, port = stage.line.topology, stage.line.server.port
        victim = {4: topology.client4, 6: topology.client6}[outer]
        forger = Forger(stage.line.router, victim, topology.server_address(outer), port)
        with stage.inside(outer):
            for _ in range(2):
                forger.too_big({4: 552, 6: 1280}[outer])
                _large(stage)

    return happen


def _large(stage: Stage) -> None:
    """Send full packets through the tunnel, for a second at the most."""
    for address, size in (("192.168.77.1", 1350), ("fd77::1", 1330)):
        stage.line.client.run(["ping", "-c", "3", "-i", "0.2", "-W", "1", "-s", str(size), address], check=False)


def _cookie(stage: Stage) -> str:
    return cookie_of(stage.line.client, stage.line.server, stage.line.topology.server4)


_OCCTL = f"/tmp/qosctl-leaks-{os.getpid()}"
_REKEY = "rekey-time = 5\nrekey-method = {}\n"
FAULTS = (
    Fault(("server restarted",), restarted),
    Fault(("server killed",), killed),
    Fault(("server restarted, cookie but no password",), restarted_with_cookie, ends=True),
    Fault(("cookie expired, no password",), cookie_expired, ends=True),
    Fault(("thrown out by the operator",), thrown_out, f"use-occtl = true\nocctl-socket-file = {_OCCTL}\n", ends=True),
    Fault(("client killed, started again",), client_killed),
    Fault(("second client for the same device",), second_client),
    Fault(("session time-out",), time_is_up, "session-timeout = 4\n"),
    Fault(("new keys (new-tunnel)",), new_keys, _REKEY.format("new-tunnel")),
    Fault(("new keys (ssl)",), new_keys, _REKEY.format("ssl") + 'tls-priorities = "NORMAL:-VERS-TLS1.3"\n'),
    Fault(("no way to the server, and back",), network_away),
    Fault(("cable pulled for 1 s, same address",), cable_pulled),
    Fault(("another local address and route",), another_address),
    Fault(("a better route from another address, the old one works",), better_route),
    Fault(("stopped (SIGSTOP) until the server gave up",), stopped),
    Fault(("suspended for 3 s",), suspended(3), suspends=True),
    Fault(("suspended until the server gave up",), suspended(3 * DPD_S + 2), suspends=True),
    Fault(("UDP blocked", "UDP open again", "UDP blocked both ways while we only receive"), udp_blocked("dport", "sport")),
    Fault(("UDP blocked and open again while another command hangs",), udp_blocked_beside_a_command_that_hangs),
    Fault(("UDP blocked towards us while we only receive",), udp_blocked("sport")),
    Fault(("UDP blocked towards the server while packets come",), udp_blocked("dport")),
    Fault(("UDP blocked from the start",), udp_blocked_from_the_start),
    Fault(("NAT forgets the UDP flow",), nat_forgets),
    Fault(("TLS dead (reset), DTLS alive",), tls_dies("reset")),
    Fault(("TLS dead (stall), DTLS alive",), tls_dies("stall")),
    Fault(("30 % loss both ways, handshakes too",), loses),
    Fault(("path shrinks, and says so",), shrinks(1380)),
    Fault(("path says it is too small for IPv6 (outer IPv4)",), shrinks(1300)),
    Fault(("path says it is too small for IPv6 (outer IPv6)",), shrinks(1300, 6)),
    Fault(("path swallows large packets",), swallows(1360)),
    Fault(("path swallows what IPv6 must be able to send",), swallows(1300)),
)
AROUND = (
    Fault(("default routes, and halves of everything, set by others",), default_routes),
    Fault(("other addresses from the server",), other_addresses),
    Fault(("no IPv6 from the server any more",), ipv6_taken_away, without_ipv6=True),
    Fault(("forged ICMP, too big (outer IPv4)",), forged_icmp(4)),
    Fault(("forged ICMP, too big (outer IPv6)",), forged_icmp(6)),
)
"""What no row of docs/faults.md has, because it is not the tunnel's own fault."""
