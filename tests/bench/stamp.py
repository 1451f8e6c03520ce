"""What the program costs a packet, by BPF_PROG_TEST_RUN: many repeats, cases interleaved, the least of the rounds: a
busy machine disturbs, and nothing makes a program faster than it is.

A repeated test run hands the same packet to the program again, so a plain hit finds its DSCP in place from the second
repeat on. Where the write counts, a variant of the program flips the policy's bank after each packet, and the two banks
map EF to two classes: every repeat writes. What the flip itself adds is measured with CS1, which the banks agree on, and
taken off.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.kernel import syscall
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.maps.policy import Policy, Rule

from tests.bpf.program.differential import on_one_cpu
from tests.bpf.program.table import NUMBER
from tests.lab.packets import TCP, frame, ipv4, ipv6, record, udp
from tests.lab.program import FLOW4, Kernel, changed_sources, kernel, sk_buff

FRAME_BYTES = 1242
ROUNDS = 40
REPEAT = 25_000
CS1 = Dscp.parse("CS1")
MANY = 10_000
_FIRST_PORT = 10_000
_UPDATE_BATCH = 26  # of bpf(2)

_RENAMED = "#define qosctl_egress qosctl_egress_inner"
_ENTRY = "#undef qosctl_egress\nint qosctl_egress(struct __sk_buff *skb)"
_EMPTY = f"{_ENTRY} {{ return TC_ACT_UNSPEC; }}"
_FLIPPING = f"""{_ENTRY} {{
	struct control *control = control_now();
	mark_and_count(skb);
	if (control)
		control->policy_bank ^= 1;
	return TC_ACT_UNSPEC;
}}"""
_LOOKUP = "ring = ring_of(key);"
_RANDOM_LOOKUP = f"key->source_port = bpf_htons({_FIRST_PORT} + bpf_get_prandom_u32() % (SPREAD)); {_LOOKUP}"


@dataclass(frozen=True)
class Case:
    """One row: the program, its packet, whether passtos is on."""

    program: int
    packet: bytes
    on: bool = True


def run() -> dict[str, dict[str, int]]:
    """Measure, print, and return {"stamp_ns": ...}: ns a packet, `empty` as it is and the others net of it."""
    with on_one_cpu(), kernel() as loaded, _variants(loaded) as programs:
        loaded.mark(NUMBER, EF)
        loaded.mark(NUMBER + 1, CS1)
        loaded.state.policy.write(Policy.identity().replaced({EF: Rule(Dscp.parse("AF41"))}))
        loaded.state.policy.write(Policy.identity())  # into the other bank
        one_flow = _measure(loaded, _cases(programs))
        _fill(loaded, 100)
        some_flows = _measure(loaded, {"hit": _hit(programs)})
        _fill(loaded, MANY)
        many_flows = _measure(loaded, {"hit": _hit(programs), **_spread(programs)})
    empty = one_flow["empty"]
    flip = one_flow["flip_equal"] - one_flow["hit_ipv4_unchanged"]
    figures = {"empty": empty}
    figures |= {name: one_flow[name] - empty for name in ("off", "other", "no_flow", "no_mark")}
    figures |= {name: one_flow[name] - empty for name in ("hit_ipv4_unchanged", "hit_ipv6_unchanged")}
    figures |= {name: one_flow[name] - empty - flip for name in ("hit_ipv4", "hit_ipv6")}
    figures["hit_ipv4_100_flows"] = some_flows["hit"] - empty - flip
    figures["hit_ipv4_10000_flows"] = many_flows["hit"] - empty - flip
    figures["random_of_10000_flows_extra"] = many_flows["spread_10000"] - many_flows["spread_1"]
    figures["flip_taken_off"] = flip
    for name, nanoseconds in figures.items():
        print(f"  {name:32}{nanoseconds:5} ns{'' if name == 'empty' else ' net of empty'}")
    return {"stamp_ns": figures}


def _cases(programs: dict[str, int]) -> dict[str, Case]:
    real, flipping = programs["real"], programs["flipping"]
    return {
        "empty": Case(programs["empty"], _datagram(4)),
        "off": Case(real, _datagram(4), on=False),
        "other": Case(real, frame(ipv4(bytes(FRAME_BYTES - 34), protocol=TCP))),
        "no_flow": Case(real, _datagram(4, source=9)),
        "no_mark": Case(real, _datagram(4, number=NUMBER + 2)),
        "hit_ipv4_unchanged": Case(real, _datagram(4)),
        "hit_ipv6_unchanged": Case(real, _datagram(6)),
        "flip_equal": Case(flipping, _datagram(4, number=NUMBER + 1)),
        "hit_ipv4": _hit(programs),
        "hit_ipv6": Case(flipping, _datagram(6)),
    }


def _hit(programs: dict[str, int]) -> Case:
    return Case(programs["flipping"], _datagram(4))


def _spread(programs: dict[str, int]) -> dict[str, Case]:
    return {name: Case(programs[name], _datagram(4)) for name in ("spread_1", "spread_10000")}


def _datagram(version: int, *, number: int = NUMBER, source: int = 40000) -> bytes:
    headers = 14 + (20 if version == 4 else 40) + 8 + 13
    payload = udp(record(number, bytes(FRAME_BYTES - headers)), source=source)
    return frame(ipv4(payload) if version == 4 else ipv6(payload))


def _measure(loaded: Kernel, cases: dict[str, Case]) -> dict[str, int]:
    """Return the least of the rounds of each case, in ns a packet."""
    found: dict[str, list[int]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            loaded.state.control.passtos = case.on
            ran = syscall.program_test_run(case.program, case.packet, sk_buff(), repeat=REPEAT)
            found[name].append(ran.duration_ns)
    return {name: min(values) for name, values in found.items()}


def _fill(loaded: Kernel, count: int) -> None:
    """Let there be `count` flows more, of one ring; entered in a batch, because each single update waits for RCU."""
    flows = loaded.state.flows
    with patch.object(syscall, "map_update"):
        for n in range(count):
            flows.add(FlowKey((FLOW4.local[0], _FIRST_PORT + n), FLOW4.remote), loaded.ring)
    fd = loaded.ring.fd.to_bytes(4, sys.byteorder)
    used = list(flows._used())
    slots = b"".join(at.to_bytes(4, sys.byteorder) for at in used)
    key_buffer, value_buffer = ctypes.create_string_buffer(slots), ctypes.create_string_buffer(fd * len(used))
    addresses = (0, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer))
    syscall._bpf(_UPDATE_BATCH, struct.pack("=QQQQIIQQ", *addresses, len(used), flows._rings, 0, 0))


@contextmanager
def _variants(loaded: Kernel) -> Iterator[dict[str, int]]:
    """Load the programs: the real one, and those that exist for measuring alone."""
    own = {"empty": _with_entry(_EMPTY), "flipping": _with_entry(_FLIPPING)}
    own |= {f"spread_{spread}": _looking_at_random(spread) for spread in (1, MANY)}
    try:
        yield {"real": loaded.programs[True], **own}
    finally:
        for program in own.values():
            os.close(program)


def _with_entry(entry: str) -> int:
    with changed_sources(before=_RENAMED, after=entry) as sources:
        return BccLoader(sources).load(folder(), pins_of(1).path, ethernet=True)


def _looking_at_random(spread: int) -> int:
    """A program that looks up a random one of `spread` flows; random for 1 as well, so that the two compare."""
    with changed_sources(before=f"#define SPREAD {spread}") as sources:
        source = (sources / "mark.h").read_text()
        assert _LOOKUP in source
        (sources / "mark.h").write_text(source.replace(_LOOKUP, _RANDOM_LOOKUP))
        return BccLoader(sources).load(folder(), pins_of(1).path, ethernet=True)
