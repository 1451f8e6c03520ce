"""Other programs that set the TOS byte of tunnels: clients that copy it, and options on our own flows' sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from qosctl.bpf.dscp import TrafficClass
from qosctl.bpf.maps.flows import Flow
from qosctl.supervisor.doctor import netlink
from qosctl.supervisor.doctor.finding import Finding, passed, warned
from qosctl.supervisor.doctor.netlink import Netlink, attributes

_COPIERS = ("openconnect", "openvpn")
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_TOS, _TCLASS = 5, 6  # INET_DIAG_TOS, INET_DIAG_TCLASS
_REQUEST = struct.Struct("=BBBxI" + "HH16s16sI8s")  # inet_diag_req_v2
_ANSWER_BYTES = 72  # struct inet_diag_msg
_PORTS_AT = 4


def check(flows: Sequence[Flow], proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Yield what else sets the byte."""
    clients = list(_copying_clients(proc))
    for pid, name in clients:
        yield warned(
            "copying-client", f"{name}, pid {pid}, runs with --passtos",
            "it copies ECN bits too, cannot be switched, and its bulk traffic falls out of the replay window",
            f"restart {name} without --passtos, or use qosctl connect",
        )  # fmt: skip
    if not clients:
        yield passed("copying-client", "no other VPN client copies marks")
    marked = list(_marked_sockets(flows))
    for flow, byte in marked:
        yield warned(
            "socket-option", f"{flow.owner.tunnel}: its socket has an option set for {byte.dscp}, ECN {byte.ecn.name}",
            "records that we leave alone go out with it, and routing looks at it", "qosctl flows; then reconnect",
        )  # fmt: skip
    if flows and not marked:
        yield passed("socket-option", "no socket of our flows has a mark of its own")


def _copying_clients(proc: Path) -> Iterator[tuple[int, str]]:
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or is hidden from us
            words = (folder / "cmdline").read_bytes().split(b"\0")
            name = Path(words[0].decode("utf-8", "replace")).name
            if name in _COPIERS and b"--passtos" in words and _is_here(folder):
                yield int(folder.name), name


def _is_here(process: Path) -> bool:
    """Whether the process is in our network namespace, as far as we may know."""
    try:
        return (process / "ns/net").readlink() == Path("/proc/thread-self/ns/net").readlink()
    except PermissionError:
        return True


def _marked_sockets(flows: Sequence[Flow]) -> Iterator[tuple[Flow, TrafficClass]]:
    if not flows:
        return
    by_ports = {(flow.key.local[1], flow.key.remote[1]): flow for flow in flows}
    wanted = 1 << _TOS - 1 | 1 << _TCLASS - 1
    with Netlink(netlink.SOCK_DIAG) as diagnosis:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_UDP, wanted, 0xFFFFFFFF, 0, 0, b"", b"", 0, b"")
            for _kind, body in diagnosis.dump(_BY_FAMILY, request).messages:
                flow = by_ports.get(struct.unpack_from("!HH", body, _PORTS_AT))
                known = attributes(body[_ANSWER_BYTES:])
                byte = max((known.get(kind, b"\0")[0] for kind in (_TOS, _TCLASS)), default=0)
                if flow is not None and byte:
                    yield flow, TrafficClass.from_byte(byte)
