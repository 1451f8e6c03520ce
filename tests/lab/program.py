"""The real program with real maps, run over packets by BPF_PROG_TEST_RUN.

A `Kernel` is one network namespace's state with one device's counters and the program loaded for it, once for devices
with an Ethernet header and once for those without. Nothing is attached anywhere.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.load.bcc import SOURCES
from qosctl.bpf.load.loader import LOADER, Loader
from qosctl.bpf.maps import counters
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import State, create_state, folder, open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.outcome import Outcome

from tests.lab import Namespace, packets

UNSPEC = 0xFFFFFFFF  # TC_ACT_UNSPEC, as the kernel reports it: other filters run

FLOW4 = FlowKey((packets.CLIENT4, packets.CLIENT_PORT), (packets.SERVER4, packets.SERVER_PORT))
FLOW6 = FlowKey((packets.CLIENT6, packets.CLIENT_PORT), (packets.SERVER6, packets.SERVER_PORT))

# struct __sk_buff: the fields that a test run takes or gives back, by offset.
_SK_BUFF_BYTES = 192
_MARK_AT, _PRIORITY_AT, _WIRE_LEN_AT, _GSO_SEGS_AT, _GSO_SIZE_AT = 8, 32, 160, 164, 176


@dataclass(frozen=True)
class Ran:
    """What one run did. `segments` is what the outcome was counted with."""

    verdict: int
    packet: bytes
    outcome: Outcome
    segments: int
    priority: int
    counters: DeviceCounters


@dataclass(frozen=True)
class Kernel:
    """`state` is open for reading and writing; `programs` are by whether the device has Ethernet headers."""

    state: State
    counters_fd: int
    programs: dict[bool, int]
    ring: Ring

    def mark(self, number: int, dscp: Dscp = EF) -> None:
        """Mark a record as a client does: one store."""
        self.ring.marks[number % RING_WORDS] = mark_word(number, dscp)

    def forget(self, number: int) -> None:
        """Empty the record's place in the ring."""
        self.ring.marks[number % RING_WORDS] = 0

    def run(
        self,
        packet: bytes,
        *,
        ethernet: bool = True,
        gso_size: int = 0,
        gso_segs: int = 0,
        wire_len: int = 0,
        priority: int = 0,
    ) -> Ran:
        """Run the program over one packet; it must come to exactly one outcome."""
        before = counters.read(self.counters_fd)
        context = sk_buff(gso_size=gso_size, gso_segs=gso_segs, wire_len=wire_len, priority=priority)
        run = syscall.program_test_run(self.programs[ethernet], packet, context)
        after = counters.read(self.counters_fd)
        counted = {o: after.outcomes[o] - before.outcomes[o] for o in Outcome if after.outcomes[o] != before.outcomes[o]}
        ((outcome, segments),) = counted.items()
        (priority,) = struct.unpack_from("=I", run.context, _PRIORITY_AT)
        return Ran(run.verdict, run.packet, outcome, segments, priority, after)


def sk_buff(*, gso_size: int = 0, gso_segs: int = 0, wire_len: int = 0, priority: int = 0, mark: int = 0) -> bytes:
    """struct __sk_buff with these fields set."""
    context = bytearray(_SK_BUFF_BYTES)
    for at, value in (
        (_MARK_AT, mark), (_PRIORITY_AT, priority), (_WIRE_LEN_AT, wire_len), (_GSO_SEGS_AT, gso_segs),
        (_GSO_SIZE_AT, gso_size),
    ):  # fmt: skip
        struct.pack_into("=I", context, at, value)
    return bytes(context)


@contextmanager
def kernel(loader: Loader = LOADER) -> Iterator[Kernel]:
    """Load everything in a fresh namespace, with the flows FLOW4 and FLOW6 sharing one ring, switched on."""
    with Namespace("program") as namespace, namespace.entered():
        bpffs.ROOT.mkdir(exist_ok=True)
        create_state()
        pins = pins_of(1)
        pins.create("lo")
        fds = {ethernet: loader.load(folder(), pins.path, ethernet=ethernet) for ethernet in (True, False)}
        counters_fd = syscall.obj_get(str(pins.counters))
        ring = Ring(own("tun-test"))
        try:
            with open_state() as state:
                state.flows.add(FLOW4, ring)
                state.flows.add(FLOW6, ring)
                state.control.passtos = True
                yield Kernel(state, counters_fd, fds, ring)
        finally:
            ring.close()
            for fd in (counters_fd, *fds.values()):
                os.close(fd)
            bpffs.remove_tree(folder())


def own(tunnel: str) -> Owner:
    """This process as the owner of a flow."""
    return Owner(os.getpid(), 0, tunnel, "server.example")


@contextmanager
def changed_sources(*, before: str = "", after: str = "") -> Iterator[Path]:
    """Yield a folder with another version of the program, for a BccLoader: egress.c with lines put before and after it.

    Files in it may be changed in other ways besides.
    """
    with tempfile.TemporaryDirectory(prefix="qosctl-sources-") as name:
        folder = Path(name)
        for path in SOURCES.glob("*.[ch]"):
            (folder / path.name).write_text(path.read_text())
        (folder / "include").symlink_to(SOURCES / "include")
        (folder / "egress.c").write_text(f"{before}\n{(SOURCES / 'egress.c').read_text()}\n{after}\n")
        yield folder
