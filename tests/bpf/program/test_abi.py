"""abi.h and abi.py say the same: asked of the compiler that builds the program, and run as BPF."""

from __future__ import annotations

import os
import re
import struct

import pytest
from qosctl.bpf import abi
from qosctl.bpf.abi import FlowState, FollowWay, PolicyAction
from qosctl.bpf.dscp import DSCP_COUNT
from qosctl.bpf.kernel import syscall
from qosctl.bpf.load.bcc import SOURCES, BccLoader
from qosctl.bpf.outcome import Outcome

from tests.lab import Namespace
from tests.lab.program import changed_sources

CONTRACT = (SOURCES / "abi.h").read_text()

_QUEUE_FIELDS = (
    "start_time", "passtos", "pattern", "since", "trusted_from", "formats", "misfits", "sent", "doubt", "first", "count",
    "found", "several", "fits", "dscp", "ip", "version", "answer", "differ", "last", "number", "session", "reserved",
)  # fmt: skip

_SENT_BEFORE = tuple(f"sent_before[{n}]" for n in range(abi.REPLAY_WINDOW))
_PACKETS = tuple(f"packets[{n}]" for n in range(abi.QUEUE_ENTRIES))

# Each struct, its fields in order, and the format that abi.py packs them with.
STRUCTS = {
    "struct control": (abi.CONTROL, ("layout", "passtos", "policy_bank", "generation")),
    "union flow_slot": (
        abi.FLOW_SLOT,
        ("source", "destination", "source_port", "destination_port", "state"),
    ),
    "struct policy_entry": (abi.POLICY_ENTRY, ("action", "outer_dscp", "set_priority", "reserved", "priority")),
    "struct follow_pattern": (abi.FOLLOW_PATTERN, ("name[0]", "name[1]", "mask[0]", "mask[1]", "since", "ways")),
    "struct follow_counters": (
        abi.FOLLOW_COUNTERS,
        ("reads", "batches", "forgotten", "passed_over", "dtls", "openvpn", "beyond_window"),
    ),
    "struct sent_packet": (struct.Struct("=II"), ("session", "when_and_dscp")),
    "struct carried": (abi.CARRIED, ("device_at", "port_of", "given_at")),
    "struct read_packet": (struct.Struct("=IHBB"), ("length", "tick", "dscp", "reserved")),
    "struct read_queue": (abi.READ_QUEUE, (*_QUEUE_FIELDS, *_SENT_BEFORE, *_PACKETS)),
    "struct class_counter": (struct.Struct("=QQ"), ("packets", "bytes")),
    "struct device_counters": (
        abi.DEVICE_COUNTERS,
        (
            *(f"outcomes[{slot}]" for slot in range(abi.OUTCOME_SLOTS)),
            *(f"outer[{n}].{part}" for n in range(DSCP_COUNT) for part in ("packets", "bytes")),
        ),
    ),
}


def expectations() -> dict[str, int]:
    """C expressions and what Python believes them to be."""
    wanted = {
        "LAYOUT_VERSION": abi.LAYOUT_VERSION,
        "DSCP_COUNT": DSCP_COUNT,
        "POLICY_BANKS": abi.POLICY_BANKS,
        "FLOW_SLOTS": abi.FLOW_SLOTS,
        "FLOW_SLOTS_LOG2": abi.FLOW_SLOTS_LOG2,
        "FLOW_PROBES": abi.FLOW_PROBES,
        "FLOW_HASH_FIRST": abi.FLOW_HASH_FIRST,
        "FLOW_HASH_SECOND": abi.FLOW_HASH_SECOND,
        "RING_WORDS": abi.RING_WORDS,
        "FLOW_INFO_WORDS": abi.FLOW_INFO_WORDS,
        "OUTCOME_SLOTS": abi.OUTCOME_SLOTS,
        "FOLLOW_PATTERNS": abi.FOLLOW_PATTERNS,
        "QUEUE_ENTRIES": abi.QUEUE_ENTRIES,
        "QUEUES": abi.QUEUES,
        "REPLAY_WINDOW": abi.REPLAY_WINDOW,
        "UDP_PORTS": abi.UDP_PORTS,
        "PORT_ELSEWHERE": abi.PORT_ELSEWHERE,
        "CARRIERS": abi.CARRIERS,
        "CARRIED_FLOW_BITS": abi.CARRIED_FLOW_BITS,
        "CARRIED_CODES": abi.CARRIED_CODES,
        "sizeof(__u64)": abi.WORD.size,
    }
    wanted |= {f"OUTCOME_{outcome.name}": outcome.value for outcome in Outcome}
    wanted |= {f"FLOW_{state.name}": state.value for state in FlowState}
    wanted |= {f"FOLLOW_BY_{way.name}": way.value for way in FollowWay}
    wanted |= {f"POLICY_{action.name}": action.value for action in PolicyAction}
    for name, (packed, fields) in STRUCTS.items():
        wanted[f"sizeof({name})"] = packed.size
        for field, offset in zip(fields, field_offsets(packed), strict=True):
            wanted[f"__builtin_offsetof({name}, {field})"] = offset
    return wanted


def field_offsets(packed: struct.Struct) -> list[int]:
    order, items = packed.format[0], re.findall(r"(\d*)([A-Za-z])", packed.format)
    singles = [text for count, kind in items for text in ([count + kind] if kind == "s" else [kind] * int(count or 1))]
    return [struct.calcsize(order + "".join(singles[:n])) for n in range(len(singles))]


@pytest.fixture
def compiled() -> dict[str, int]:
    """What the compiler says of each expression: a program of its own writes them over its packet."""
    expressions = list(expectations())
    packet = 8 * len(expressions)
    stores = "\n".join(
        f"value = {expression}; bpf_skb_store_bytes(skb, {8 * n}, &value, 8, 0);"
        for n, expression in enumerate(expressions)
    )
    with Namespace("layout") as namespace, namespace.entered(), changed_sources() as folder:
        (folder / "egress.c").write_text(
            f'#include "abi.h"\nint qosctl_egress(struct __sk_buff *skb) {{ __u64 value;\n{stores}\nreturn 0; }}\n'
        )
        program = BccLoader(folder).load(folder, folder, ethernet=True)
        ran = syscall.program_test_run(program, bytes(packet))
        os.close(program)
    return dict(zip(expressions, struct.unpack(f"={len(expressions)}Q", ran.packet), strict=True))


def test_python_believes_what_the_compiler_says(compiled: dict[str, int]) -> None:
    assert compiled == expectations()


def test_the_enums_have_the_same_members() -> None:
    outcomes = re.findall(r"^\tOUTCOME_(\w+) = (\d+),", CONTRACT, re.MULTILINE)
    assert outcomes == [(outcome.name, str(outcome.value)) for outcome in Outcome]
    assert re.findall(r"^\tPOLICY_(\w+) =", CONTRACT, re.MULTILINE) == [action.name for action in PolicyAction]


def test_every_number_of_the_contract_is_compared() -> None:
    """A new limit or field must come to abi.py, or be seen missing here."""
    wanted = expectations()
    limits = set(re.findall(r"^#define (\w+) \S", CONTRACT, re.MULTILINE))
    assert limits - set(wanted) == set()
    for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", CONTRACT, re.MULTILINE | re.DOTALL):
        fields = re.findall(r"^\t(?:__\w+|struct \w+) (\w+)", body, re.MULTILINE)
        assert set(fields) == {re.split(r"\W", field)[0] for field in STRUCTS[f"struct {name}"][1]}, name


def test_one_more_outcome_moves_no_counter() -> None:
    """The counters of a running installation outlive it: those by class stand behind the slots, not behind the outcomes."""
    assert max(Outcome) < abi.OUTCOME_SLOTS
    assert abi.DEVICE_COUNTERS.size == (abi.OUTCOME_SLOTS + 2 * DSCP_COUNT) * abi.WORD.size


def test_a_ring_is_a_power_of_two_and_its_marks_whole_pages() -> None:
    assert abi.RING_WORDS & (abi.RING_WORDS - 1) == 0
    assert abi.RING_WORDS * abi.WORD.size % 4096 == 0
    assert abi.FLOW_INFO_WORDS * abi.WORD.size == 4096
