"""What following tunnels of others costs: those who do, and those who have none.

Two ways to measure. BPF_PROG_TEST_RUN, as in stamp.py, compares the program at egress with and without following, for
packets that are nobody's. What needs a packet that was read cannot be repeated in the kernel: for that its own statistics
count the time of each run (BPF_ENABLE_STATS), net of a program that does nothing at the same place.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from qosctl.bpf.abi import CARRIERS, UDP_PORTS, FollowWay
from qosctl.bpf.dscp import EF
from qosctl.bpf.kernel import netns, syscall
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.load.loader import LOADER
from qosctl.bpf.load.programs import TUN_READS_TRACEPOINT
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.following import follow_pins, open_carried
from qosctl.bpf.maps.namespace_maps import folder

from tests.bench.stamp import FRAME_BYTES, REPEAT
from tests.bpf.program.differential import on_one_cpu
from tests.lab.carrier_program import carried_hash, datagram, layout
from tests.lab.packets import TCP, frame, ipv4, udp
from tests.lab.program import changed_sources, sk_buff
from tests.lab.tun_program import TunProgram, tun_program

ROUNDS = 20
READS = 3000
_LOOPBACK_MTU = 65535  # it has 65536, of which 16 bits are 0: it is given another one
_ENABLE_STATS = 32  # of bpf(2)
_RUN_TIME_AT = 192  # struct bpf_prog_info: run_time_ns, run_cnt
_EMPTY_EGRESS = "int qosctl_egress(struct __sk_buff *skb) { return -1; }\n"
_EMPTY_HASHED = "int qosctl_egress(struct __sk_buff *skb) { bpf_set_hash(skb, skb->mark); return -1; }\n"
_EMPTY_READS = "int qosctl_tun_reads(struct bpf_raw_tracepoint_args *ctx) { return 0; }\n"


def run() -> dict[str, dict[str, int]]:
    """Measure, print, and return {"following_ns": ...}: ns a packet, net of an empty program."""
    with on_one_cpu(), tun_program() as program, _programs() as programs:
        figures = _nobodys(programs) | _carried(programs)
        with _statistics():
            figures["read_from_a_socket"] = _net(programs["reads"], programs["empty_reads"], _socket_reads)
            figures["read_from_a_tunnel"] = _net(programs["reads"], programs["empty_reads"], lambda: _tun_reads(program))
            figures["matched"] = _matched(program, programs)
    for name, nanoseconds in figures.items():
        print(f"  {name:32}{nanoseconds:5} ns net of empty")
    return {"following_ns": figures}


def _nobodys(programs: dict[str, int]) -> dict[str, int]:
    """Packets that are no tunnel's, by the program that follows programs' tunnels, WireGuard alone, or nothing."""
    cases = {
        "no_flow": frame(ipv4(udp(bytes(FRAME_BYTES - 42), source=9))),
        "other": frame(ipv4(bytes(FRAME_BYTES - 34), protocol=TCP)),
    }
    ways = ("plain", "following", "carrying")
    runs = {(case, name): (programs[name], packet, 0) for case, packet in cases.items() for name in ("empty", *ways)}
    least = _least(runs)
    return {f"{case}_{name}": least[case, name] - least[case, "empty"] for case in cases for name in ways}


def _carried(programs: dict[str, int]) -> dict[str, int]:
    """WireGuard's packets, on the way in and, marked already, on the way out."""
    inner, outer = datagram(EF.value << 2), frame(datagram(EF.value << 2, source=_LOOPBACK_MTU))
    value = carried_hash(5, EF.value, 1)
    least = _least(
        {
            ("in", "empty"): (programs["empty"], inner, 0),
            ("in", "carry"): (programs["carry"], inner, 0),
            ("out", "empty"): (programs["empty_hashed"], outer, value),
            ("out", "carrying"): (programs["carrying_hashed"], outer, value),
        }
    )
    return {
        "carried_in": least["in", "carry"] - least["in", "empty"],
        "carried_out": least["out", "carrying"] - least["out", "empty"],
    }


def _least(runs: dict[tuple[str, str], tuple[int, bytes, int]]) -> dict[tuple[str, str], int]:
    """The least time of a run of each program, with a packet and its mark, in rounds of all."""
    found: dict[tuple[str, str], list[int]] = {}
    for _ in range(ROUNDS):
        for key, (program, packet, mark) in runs.items():
            ran = syscall.program_test_run(program, packet, sk_buff(mark=mark), repeat=REPEAT)
            found.setdefault(key, []).append(ran.duration_ns)
    return {key: min(values) for key, values in found.items()}


def _matched(program: TunProgram, programs: dict[str, int]) -> int:
    """A datagram that takes the mark of the packet just read; the write included."""

    def times(egress: int) -> float:
        packet = frame(ipv4(udp(b"\x17\xfe\xfd" + bytes(8) + struct.pack("!H", 1200 + 25) + bytes(1225), source=9)))
        before = _run(egress)
        for _ in range(READS):
            program.tun.take(1200, EF)
            syscall.program_test_run(egress, packet, sk_buff())
        return _average(before, _run(egress))

    return round(min(times(programs["following"]) for _ in range(3)) - min(times(programs["empty"]) for _ in range(3)))


def _net(reads: int, empty: int, traffic: Callable[[], None]) -> int:
    def times(tracepoint: int) -> float:
        link = syscall.raw_tracepoint_open(TUN_READS_TRACEPOINT, tracepoint)
        try:
            before = _run(tracepoint)
            traffic()
            return _average(before, _run(tracepoint))
        finally:
            os.close(link)

    return round(min(times(reads) for _ in range(3)) - min(times(empty) for _ in range(3)))


def _socket_reads() -> None:
    """By a socket of the machine's own: small datagrams of UDP are read past the tracepoint."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        for _ in range(READS):
            near.send(bytes(100))
            far.recv(200)


def _tun_reads(program: TunProgram) -> None:
    for _ in range(READS):
        program.tun.take(1200, EF)


def _run(program: int) -> tuple[int, int]:
    nanoseconds, count = struct.unpack_from("=QQ", syscall._info(program), _RUN_TIME_AT)
    return nanoseconds, count


def _average(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[0] - before[0]) / (after[1] - before[1])


@contextmanager
def _statistics() -> Iterator[None]:
    fd = syscall._bpf(_ENABLE_STATS, struct.pack("=I", 0))
    try:
        yield
    finally:
        os.close(fd)


def _carrying() -> dict[str, int]:
    """Both programs for WireGuard, with the loopback device for one: it was given a code and a port, as by a packet."""
    subprocess.run(["ip", "link", "set", "lo", "mtu", str(_LOOPBACK_MTU)], check=True)
    follow_pins().create()
    follow_pins().provide(FollowWay.HASH)
    pins = pins_of(1).path
    with pytest.MonkeyPatch.context() as any_device, changed_sources() as sources:
        any_device.setattr(kernel_layout, "wireguard", layout)
        source = (sources / "egress.c").read_text()
        (sources / "egress.c").write_text(source.replace("\tmark_and", "\tbpf_set_hash(skb, skb->mark);\n\tmark_and"))
        programs = {
            "carrying": LOADER.load(folder(), pins, ethernet=True),
            "carrying_hashed": BccLoader(sources).load(folder(), pins, ethernet=True),
            "carry": LOADER.load_carry(folder(), pins, netns.cookie()),
        }
    with open_carried() as carried:
        words = carried._words
        words[_LOOPBACK_MTU], words[UDP_PORTS + 1] = 1, _LOOPBACK_MTU
        given = words.cast("B")[4 * (UDP_PORTS + CARRIERS) :].cast("H")
        given[5 << 6 | EF.value] = (time.monotonic_ns() >> 27) - 1 & 0xFFFF
        given.release()
    follow_pins().remove()
    return programs


@contextmanager
def _programs() -> Iterator[dict[str, int]]:
    """By name; `tun_program` has made what they need."""
    follow = follow_pins().path
    aside = follow.with_name("aside")
    follow.rename(aside)
    plain = LOADER.load(folder(), pins_of(1).path, ethernet=True)
    carrying = _carrying()
    aside.rename(follow)
    programs = {
        "plain": plain,
        **carrying,
        "following": LOADER.load(folder(), pins_of(1).path, ethernet=True),
        "reads": LOADER.load_tun_reads(folder(), netns.cookie()),
    }
    with changed_sources() as sources:
        (sources / "egress.c").write_text(_EMPTY_EGRESS)
        (sources / "tun_reads.c").write_text(_EMPTY_READS)
        programs["empty"] = BccLoader(sources).load(folder(), pins_of(1).path, ethernet=True)
        (sources / "egress.c").write_text(_EMPTY_HASHED)
        programs["empty_hashed"] = BccLoader(sources).load(folder(), pins_of(1).path, ethernet=True)
        programs["empty_reads"] = BccLoader(sources).load_tun_reads(folder(), netns.cookie())
    try:
        yield programs
    finally:
        for fd in programs.values():
            os.close(fd)
