"""A stand for the supervisor's tests: two namespaces and a wire, a tunnel's sender at one end and a watcher at the other.

+--------+ near            far +-----------+
| sender |---------------------|  watcher  |
+--------+ 10.92.0.1 10.92.0.2 +-----------+
           fd92::1     fd92::2
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.errors import NotAttachedError
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.hooks import HookKind, TcxHook
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab import Capture, Namespace, veth
from tests.lab.packets import record
from tests.lab.program import changed_sources, own

NEAR, FAR = "near", "far"
ADDRESSES = {4: ("10.92.0.1", "10.92.0.2"), 6: ("fd92::1", "fd92::2")}
PORTS = (40000, 4443)

HOOKS = [HookKind.TCX, HookKind.CLSACT]
both_hooks = pytest.mark.parametrize("kind", HOOKS, ids=[kind.value for kind in HOOKS])

Snapshot = list[Any]


@dataclass(frozen=True)
class Tunnel:
    """A socket whose records are marked in a ring of their own, as a client's are."""

    socket: socket.socket
    ring: Ring
    key: FlowKey

    def send(self, number: int, dscp: Dscp = EF, body: bytes = b"sealed") -> None:
        """Mark a record and send it."""
        self.ring.marks[number % RING_WORDS] = mark_word(number, dscp)
        self.socket.send(record(number, body))


@dataclass(frozen=True)
class Stand:
    """The two ends; calls of the supervisor's API act on `sender`, where the test's thread is."""

    sender: Namespace
    watcher: Namespace

    @property
    def index(self) -> int:
        """The interface index of `near`."""
        return socket.if_nametoindex(NEAR)

    def snapshot(self, *devices: str) -> Snapshot:
        """What the machine says of its hooks: qdiscs, filters of each direction, attached programs, TCX chains."""
        said: Snapshot = [_json(self.sender, ["tc", "-j", "qdisc"]), _json(self.sender, ["bpftool", "-j", "net"])]
        for device in devices or (NEAR,):
            said += [
                _json(self.sender, ["tc", "-j", "filter", "show", "dev", device, side]) for side in ("ingress", "egress")
            ]
            said.append(tcx_programs(socket.if_nametoindex(device)))
        return said

    @contextmanager
    def tunnel(self, version: int = 4, ports: tuple[int, int] = PORTS) -> Iterator[Tunnel]:
        """Open a socket towards the watcher and enter it as a flow. There must be state already."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        near, far = ADDRESSES[version]
        ring = Ring(own("tun-test"))
        key = FlowKey((near, ports[0]), (far, ports[1]))
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((near, ports[0]))
            sock.connect((far, ports[1]))
            with open_state() as state:
                state.flows.add(key, ring)
            try:
                yield Tunnel(sock, ring, key)
            finally:
                ring.close()
                with contextlib.suppress(NotAttachedError), open_state() as state:
                    state.flows.remove(key)

    @contextmanager
    def watching(self) -> Iterator[Capture]:
        """Catch the tunnel's packets at the far end."""
        with Capture(self.watcher, FAR, lambda frame: frame.destination_port == PORTS[1]) as capture:
            yield capture


@contextmanager
def stand() -> Iterator[Stand]:
    """Build it; the calling thread is in the sender's namespace inside the block."""
    with Namespace("sender") as sender, Namespace("watcher") as watcher, wire(sender, watcher):
        with watcher.entered():
            sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)  # or errors would come back to the sender
        with sink, sender.entered():
            sink.bind(("::", PORTS[1]))
            yield Stand(sender, watcher)
            bpffs.remove_tree(folder())


@contextmanager
def wire(sender: Namespace, watcher: Namespace) -> Iterator[None]:
    """Lay the wire, with addresses that need no neighbour discovery."""
    with veth(sender, NEAR, watcher, FAR):
        for namespace, device, other, end in ((sender, NEAR, FAR, 0), (watcher, FAR, NEAR, 1)):
            there = watcher if namespace is sender else sender
            lladdr = json.loads(there.ip(f"link show dev {other}"))[0]["address"]
            (near4, near6), (far4, far6) = ([pair[at] for pair in ADDRESSES.values()] for at in (end, 1 - end))
            namespace.ip(
                f"address add {near4}/24 dev {device}",
                f"address add {near6}/64 dev {device} nodad",
                f"neigh replace {far4} lladdr {lladdr} dev {device}",
                f"neigh replace {far6} lladdr {lladdr} dev {device}",
            )
        yield


def tcx_programs(index: int) -> list[int]:
    """The programs at a device's TCX egress hook; none where the kernel has no such hook."""
    return syscall.tcx_programs(index) if TcxHook.supported(index) else []


def our_programs(index: int) -> int:
    """How many programs of ours stand at a device's egress, where nobody else uses TCX."""
    return len(tcx_programs(index)) + (clsact.our_program(index) is not None)


def devices() -> dict[str, DeviceState]:
    """What status says of each device."""
    return {device.name: device.state for device in status().devices}


def foreign_program(ttl: int, verdict: int = -1) -> int:
    """Load somebody else's program: it writes the IPv4 time to live, so that the wire shows it ran."""
    with changed_sources() as sources:
        (sources / "egress.c").write_text(
            "int qosctl_egress(struct __sk_buff *skb) {\n"
            f"__u8 ttl = {ttl};\nbpf_skb_store_bytes(skb, 22, &ttl, 1, 0);\nreturn {verdict};\n}}\n"
        )
        return BccLoader(sources).load(sources, sources, ethernet=True)


def pinned(program: int, name: str) -> Path:
    """Give a program a name that tc can use."""
    path = bpffs.MOUNT_POINT / name
    path.unlink(missing_ok=True)
    syscall.obj_pin(program, str(path))
    return path


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _json(namespace: Namespace, argv: list[str]) -> Any:
    said = namespace.run(argv).stdout
    return json.loads(said) if said.strip() else None


@contextmanager
def another_version() -> Iterator[BccLoader]:
    """Yield what loads a program that differs from the installed one."""
    with changed_sources() as sources:
        source = (sources / "egress.c").read_text()
        (sources / "egress.c").write_text(
            source.replace("\tmark_and_count(skb);", "\tskb->tc_classid = 0;\n\tmark_and_count(skb);")
        )
        yield BccLoader(sources)


def stamped(stand: Stand, count: int = 1) -> list[int]:
    """Send records marked EF and return the DSCPs on the wire."""
    with stand.tunnel() as tunnel, stand.watching() as wire:
        for number in range(1, count + 1):
            tunnel.send(number)
        return [frame.dscp for frame in wire.wait_for(lambda frames: len(frames) == count)]
