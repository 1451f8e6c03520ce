"""contract.h and layout.py say the same: asked of the compiler that builds the program, and run as BPF."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from qosctl.bpf import layout, loader, syscall
from qosctl.bpf.dscp import DSCP_COUNT
from qosctl.bpf.layout import FlowState, Outcome, PolicyAction

from tests.bpf.kernel import changed_sources
from tests.lab import Namespace

CONTRACT = (Path(loader.__file__).parent / "contract.h").read_text()

# Each struct, its fields in order, and the format that layout.py packs them with.
STRUCTS = {
    "struct control": (layout.CONTROL, ("layout", "passtos", "policy_bank", "generation")),
    "union flow_slot": (
        layout.FLOW_SLOT,
        ("source", "destination", "source_port", "destination_port", "state"),
    ),
    "struct policy_entry": (layout.POLICY_ENTRY, ("action", "outer_dscp", "set_priority", "reserved", "priority")),
    "struct class_counter": (struct.Struct("=QQ"), ("packets", "bytes")),
    "struct device_counters": (
        layout.DEVICE_COUNTERS,
        (
            *(f"outcomes[{slot}]" for slot in range(layout.OUTCOME_SLOTS)),
            *(f"outer[{n}].{part}" for n in range(DSCP_COUNT) for part in ("packets", "bytes")),
        ),
    ),
}


def expectations() -> dict[str, int]:
    """C expressions and what Python believes them to be."""
    wanted = {
        "LAYOUT_VERSION": layout.LAYOUT_VERSION,
        "DSCP_COUNT": DSCP_COUNT,
        "POLICY_BANKS": layout.POLICY_BANKS,
        "FLOW_SLOTS": layout.FLOW_SLOTS,
        "FLOW_SLOTS_LOG2": layout.FLOW_SLOTS_LOG2,
        "FLOW_PROBES": layout.FLOW_PROBES,
        "FLOW_HASH_FIRST": layout.FLOW_HASH_FIRST,
        "FLOW_HASH_SECOND": layout.FLOW_HASH_SECOND,
        "RING_WORDS": layout.RING_WORDS,
        "FLOW_INFO_WORDS": layout.FLOW_INFO_WORDS,
        "OUTCOME_SLOTS": layout.OUTCOME_SLOTS,
        "sizeof(__u64)": layout.WORD.size,
    }
    wanted |= {f"OUTCOME_{outcome.name}": outcome.value for outcome in Outcome}
    wanted |= {f"FLOW_{state.name}": state.value for state in FlowState}
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
            f'#include "contract.h"\nint qosctl_egress(struct __sk_buff *skb) {{ __u64 value;\n{stores}\nreturn 0; }}\n'
        )
        program = loader.load(folder, folder, ethernet=True)
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
    """A new limit or field must come to layout.py, or be seen missing here."""
    wanted = expectations()
    limits = set(re.findall(r"^#define (\w+) \S", CONTRACT, re.MULTILINE))
    assert limits - set(wanted) == set()
    for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", CONTRACT, re.MULTILINE | re.DOTALL):
        fields = re.findall(r"^\t(?:__\w+|struct \w+) (\w+)", body, re.MULTILINE)
        assert set(fields) == {re.split(r"\W", field)[0] for field in STRUCTS[f"struct {name}"][1]}, name


def test_one_more_outcome_moves_no_counter() -> None:
    """The counters of a running installation outlive it: those by class stand behind the slots, not behind the outcomes."""
    assert max(Outcome) < layout.OUTCOME_SLOTS
    assert layout.DEVICE_COUNTERS.size == (layout.OUTCOME_SLOTS + 2 * DSCP_COUNT) * layout.WORD.size


def test_a_ring_is_a_power_of_two_and_its_marks_whole_pages() -> None:
    assert layout.RING_WORDS & (layout.RING_WORDS - 1) == 0
    assert layout.RING_WORDS * layout.WORD.size % 4096 == 0
    assert layout.FLOW_INFO_WORDS * layout.WORD.size == 4096
