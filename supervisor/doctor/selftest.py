"""The stamp itself: the program over 64 classes, 4 ECN values and 2 families, by BPF_PROG_TEST_RUN.

It runs in a throw-away network namespace with a BPF file system of its own, so that neither maps nor counters in use are
touched. The kernel's tag, a hash of the instructions, tells whether it is the same program as the one that is attached.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import Dscp, Ecn, TrafficClass
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.load.loader import LOADER, Loader
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import State, create_state, folder, open_state
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus
from qosctl.supervisor.doctor.finding import Finding, failed, passed, warned
from qosctl.supervisor.doctor.packets import with_checksum
from qosctl.supervisor.doctor.scratch_netns import mount

_LOOPBACK = 1
_RUNS = 64 * 4 * 2
_ENDS = {4: ("192.0.2.1", "198.51.100.7"), 6: ("2001:db8::1", "2001:db8::7")}
_PORTS = (40000, 443)
_RECORD = struct.Struct("!BHQH")  # type, version, epoch and number, length (RFC 6347 section 4.1)
_DATA, _DTLS_1_2 = 23, 0xFEFD
_BODY = b"sealed" * 4
_UNSPEC = 0xFFFFFFFF


@dataclass(frozen=True)
class SelfTest:
    """The tags of the programs (Ethernet, raw IP), how often they ran, and what went wrong (a sentence each, few)."""

    tags: Sequence[str]
    runs: int
    wrong: Sequence[str]


def run(loader: Loader = LOADER) -> SelfTest:
    """Compile, load and run the program. Only in a throw-away child: it mounts a file system over the pins."""
    mount("bpf", str(bpffs.MOUNT_POINT))
    bpffs.ROOT.mkdir(mode=0o700)
    create_state()
    pins = pins_of(_LOOPBACK)
    pins.create("lo")
    ring = Ring(Owner(os.getpid(), 0, "selftest", ""))
    tags, wrong, runs = [], [], 0
    with open_state() as state:
        _prepare(state, ring)
        for ethernet in (True, False):
            program = loader.load(folder(), pins.path, ethernet=ethernet)
            tags.append(syscall.program_info(program).tag)
            for family in (4, 6):
                found = list(_run_family(program, ring, family, ethernet=ethernet))
                wrong += [sentence for sentence in found if sentence]
                runs += len(found)
            os.close(program)
    return SelfTest(tags, runs, wrong[:3])


def check(result: SelfTest, devices: Sequence[DeviceStatus]) -> Iterator[Finding]:
    """Yield what came of it, and whether what is attached is what was tested."""
    if result.wrong:
        yield failed(
            "stamp", f"the stamp went wrong: {result.wrong[0]}", "do not rely on marks made by this program",
            "qosctl detach --all, and report it",
        )  # fmt: skip
    else:
        yield passed(
            "stamp", f"{result.runs:,} packets stamped right: 64 classes, 4 ECN values, both families and link types"
        )
    for device in devices:
        if device.state is DeviceState.ATTACHED and device.program is not None and device.program.tag not in result.tags:
            yield warned(
                "stamp-version", f"{device.name}: the program there, tag {device.program.tag}, is of another version",
                "what was tested above is not what marks", f"qosctl attach {device.name}",
            )  # fmt: skip


def _prepare(state: State, ring: Ring) -> None:
    state.control.passtos = True
    state.policy.write(Policy.identity())
    for near, far in _ENDS.values():
        state.flows.add(FlowKey((near, _PORTS[0]), (far, _PORTS[1])), ring)


def _run_family(program: int, ring: Ring, family: int, *, ethernet: bool) -> Iterator[str]:
    """Yield what is wrong with each run, or nothing."""
    link = b"\2" * 12 + struct.pack("!H", {4: 0x0800, 6: 0x86DD}[family]) if ethernet else b""
    number = 0
    for ecn in Ecn:
        for dscp in Dscp.all():
            number += 1
            ring.marks[number % RING_WORDS] = mark_word(number, dscp)
            before = TrafficClass.of(Dscp.of(63 - dscp.value), ecn)
            packet = link + _packet(family, before, number)
            expected = link + _packet(family, TrafficClass.of(dscp, ecn), number)
            ran = syscall.program_test_run(program, packet)
            if ran.packet != expected or ran.verdict != _UNSPEC:
                yield f"IPv{family}, {before} to {dscp}, {'Ethernet' if ethernet else 'raw IP'}"
            else:
                yield ""


def _packet(family: int, traffic_class: TrafficClass, number: int) -> bytes:
    record = _RECORD.pack(_DATA, _DTLS_1_2, number, len(_BODY)) + _BODY
    udp = struct.pack("!HHHH", *_PORTS, 8 + len(record), 0) + record
    source, destination = (ipaddress.ip_address(end).packed for end in _ENDS[family])
    if family == 6:
        return (
            struct.pack("!IHBB", 6 << 28 | traffic_class.byte << 20 | 0xABCDE, len(udp), 17, 64)
            + source
            + destination
            + udp
        )
    return (
        with_checksum(
            struct.pack("!BBHHHBBH", 0x45, traffic_class.byte, 20 + len(udp), 0x1234, 0x4000, 64, 17, 0)
            + source
            + destination
        )
        + udp
    )
