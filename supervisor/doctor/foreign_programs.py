"""Other programs that see our packets: those before ours, those after it, and the queue that should look at the mark."""

from __future__ import annotations

import array
import fcntl
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.supervisor.devices import clsact, hooks
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus
from qosctl.supervisor.doctor import host_snapshot
from qosctl.supervisor.doctor.finding import Finding, passed, warned

_LOOKS = {
    "cake": "sorts by DSCP",
    "mqprio": "sorts by priority, which the policy can set",
    "prio": "sorts by priority, which the policy can set, or by filters",
    "pfifo_fast": "sorts by priority, which the policy can set",
}
_BY_FILTER = ("htb", "hfsc", "drr", "ets", "qfq", "dsmark", "multiq")
_CAKE_MODE, _CAKE_BESTEFFORT = 3, 3  # TCA_CAKE_DIFFSERV_MODE, CAKE_DIFFSERV_BESTEFFORT
_SIOCETHTOOL, _GET_GSO = 0x8946, 0x23  # linux/sockios.h, linux/ethtool.h
_REWRITERS = (b"pedit\0", b"ctinfo\0", b"skbmod\0")
_VARIANTS = ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")
_TABLES = ("iptables-save", "ip6tables-save")
_NO_SUCH_FILTER = "not supported"  # by the kernel, which then has no such rules either
_ASK = {"nft": ("nft", "-j", "list", "ruleset")}  # the others are asked for all tables: to name one would make it


def check(devices: Sequence[str], known: Mapping[str, DeviceStatus]) -> Iterator[Finding]:
    """Yield what was found on these devices, and the packet filter's rules that re-mark."""
    for name in devices:
        device = known.get(name)
        if device is not None and device.state is DeviceState.ATTACHED:
            yield from _ahead(device)
            yield from _behind(device)
        yield queue(name)
        yield offload(name)
    yield from packet_filter()


def _ahead(device: DeviceStatus) -> Iterator[Finding]:
    for foreign in device.ahead:
        yield warned(
            "ahead", f"{device.name}: {foreign.description} at {foreign.where.value} runs before our program",
            "where it ends the chain we see nothing, and our program cannot mark", f"bpftool net show dev {device.name}",
        )  # fmt: skip
    if not device.ahead:
        yield passed("ahead", f"{device.name}: nobody runs before our program")


def _behind(device: DeviceStatus) -> Iterator[Finding]:
    ours = device.hook is hooks.HookKind.CLSACT
    others = list(_programs_behind(device)) if not ours else []
    for priority, handle, kind, options in host_snapshot.egress_filters(device.name):
        if ours and (priority, handle) <= (clsact.PRIORITY, clsact.HANDLE):
            continue
        rewrites = any(word in options for word in _REWRITERS)
        if kind == "bpf" or rewrites:
            what = "that rewrites packets" if rewrites else "(BPF)"
            others.append(f"a filter {what}, priority {priority}")
    for other in others:
        yield warned(
            "behind", f"{device.name}: {other} runs behind our program", "it can change the mark again",
            f"tc filter show dev {device.name} egress; bpftool net show dev {device.name}",
        )  # fmt: skip
    if not others:
        yield passed("behind", f"{device.name}: nobody runs behind our program who could change the mark")


def _programs_behind(device: DeviceStatus) -> Iterator[str]:
    ours = device.program.id if device.program else None
    programs = syscall.tcx_programs(device.index) if hooks.TcxHook.supported(device.index) else []
    if hooks.TcxHook(pins_of(device.index)).attached() is None or ours not in programs:
        return
    for program in programs[programs.index(ours) + 1 :]:
        yield f"TCX program {program}"


def queue(name: str) -> Finding:
    """Say whether the device's queue looks at the mark."""
    try:
        return verdict(name, host_snapshot.qdiscs(name))
    except OSError as error:
        return warned("queue", f"{name}: its queue cannot be seen ({error.strerror})", "the device may be gone", "ip link")


def verdict(name: str, found: Sequence[host_snapshot.Qdisc]) -> Finding:
    """Say it of these queueing disciplines, the root first."""
    kinds = list(dict.fromkeys(qdisc.kind for qdisc in found if qdisc.kind not in ("clsact", "ingress")))
    fix = f"tc qdisc replace dev {name} root cake diffserv4 bandwidth RATE"
    for qdisc in found:
        if qdisc.kind == "cake" and qdisc.options.get(_CAKE_MODE, b"")[:1] == bytes([_CAKE_BESTEFFORT]):
            return warned("queue", f"{name}: cake in besteffort mode", "this queue treats all classes alike", fix)
        if qdisc.kind in _LOOKS:
            return passed("queue", f"{name}: {qdisc.kind}, which {_LOOKS[qdisc.kind]}")
        if qdisc.kind in _BY_FILTER:
            return passed("queue", f"{name}: {qdisc.kind}, which sorts by its filters: see that one looks at the DSCP")
    return warned(
        "queue", f"{name}: {' with '.join(kinds) or 'no queue'}, which does not look at the mark",
        "the mark helps at the next hop that looks, not in this machine's own queue", fix,
    )  # fmt: skip


def packet_filter() -> Iterator[Finding]:
    """Yield the rules of nftables and iptables that write the DSCP. They all run before our program."""
    rules = 0
    asked = []
    for tool, rules_of in _packet_filters():
        done = subprocess.run(_ASK.get(tool, (tool,)), capture_output=True, text=True, check=False, timeout=5)
        asked.append(tool)
        if done.returncode != 0 and _NO_SUCH_FILTER not in done.stderr:
            yield warned(
                "packet-filter", f"{tool} does not tell its rules: {_first_line(done.stderr)}",
                "whether one of them writes the DSCP is not known", "sudo qosctl doctor",
            )  # fmt: skip
            rules += 1
            continue
        for rule, show in rules_of(tool, done.stdout):
            rules += 1
            yield warned(
                "packet-filter", f"{rule} writes the DSCP",
                "it runs before our program: on the tunnel device it decides what we copy, outside our stamp replaces it",
                show,
            )  # fmt: skip
    if not rules:
        looked = f"no rule of the packet filter writes the DSCP ({', '.join(asked)})"
        yield passed("packet-filter", looked if asked else "neither nft nor iptables is installed to ask for rules")


def _packet_filters() -> Iterator[tuple[str, Callable[[str, str], Iterator[tuple[str, str]]]]]:
    """Yield the tools to ask, and what reads their answers: from a tool and its output to rules and how to show them.

    What is called iptables is either of two programs, with rules of their own; older ones are just called so. The tool of
    iptables' rules in nftables says more of them than nft does.
    """
    iptables = [tool for tool in _VARIANTS if shutil.which(tool)] or [tool for tool in _TABLES if shutil.which(tool)]
    if shutil.which("nft"):
        yield "nft", functools.partial(_nft, foreign=not any("-nft-" in tool for tool in iptables))
    for tool in iptables:
        yield tool, _iptables


def _nft(_tool: str, said: str, *, foreign: bool) -> Iterator[tuple[str, str]]:
    """`foreign`: with the rules that iptables has put there."""
    try:
        objects = json.loads(said)["nftables"]
    except (ValueError, KeyError):
        return
    for rule in (entry["rule"] for entry in objects if "rule" in entry):
        if any(_writes_dscp(statement, foreign=foreign) for statement in rule.get("expr", [])):
            chain = f"{rule['family']} {rule['table']} {rule['chain']}"
            yield f"nft rule {rule['handle']} in {chain}", f"nft -a list chain {chain}"


def _iptables(tool: str, said: str) -> Iterator[tuple[str, str]]:
    for line in said.splitlines():
        if " -j DSCP" in line or " -j TOS" in line:
            yield f"{tool}: {line}", f"{tool.removesuffix('-save')} -t mangle -L -v --line-numbers"


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "it does not say why")


def _writes_dscp(statement: Any, *, foreign: bool) -> bool:
    if not isinstance(statement, dict):
        return False
    payload = statement.get("mangle", {}).get("key", {}).get("payload", {})
    by_name = payload.get("field") in ("dscp", "priority", "tos")
    by_place = payload.get("base") == "nh" and payload.get("offset", 99) < 16
    by_iptables = foreign and statement.get("xt", {}).get("name") in ("DSCP", "TOS")
    return by_name or by_place or by_iptables


def offload(name: str) -> Finding:
    """Say whether batches leave whole. No other offload comes between the stamp and the wire."""
    request = array.array("I", [_GET_GSO, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("=16sQ8x", os.fsencode(name), request.buffer_info()[0]))
        except OSError as error:
            return passed("offload", f"{name}: its offloads cannot be asked for ({error.strerror}): no matter for marking")
    state = "on" if request[1] else "off"
    return passed("offload", f"{name}: GSO is {state}: a batch of records has one header and one class either way")
