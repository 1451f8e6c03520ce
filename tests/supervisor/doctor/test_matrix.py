"""What this kernel does with TOS, DSCP and ECN is found by trying, and docs/ has the same rows."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from qosctl.supervisor.doctor import matrix
from qosctl.supervisor.doctor.examine import kernel_matrix
from qosctl.supervisor.doctor.matrix_row import NOT_HERE, MatrixRow

REFERENCE = Path(__file__).parent.parent.parent.parent / "docs/dscp-tos-ecn.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, MatrixRow]:
    return {row.key: row for row in kernel_matrix()}


def test_a_rule_for_ef_is_rejected_on_ipv4_and_taken_on_ipv6(rows: dict[str, MatrixRow]) -> None:
    row = rows["rule-tos-ef"]
    assert row.ipv4.startswith("rejected")
    assert row.ipv6 == "matches EF alone"
    assert row.breaks


def test_a_rule_for_old_tos_bits_also_catches_ef_on_ipv4(rows: dict[str, MatrixRow]) -> None:
    row = rows["rule-tos-0x18"]
    assert "8 DSCPs" in row.ipv4
    assert "EF" in row.ipv4
    assert row.ipv6 == "matches 6 alone"


def test_ecn_bits_in_a_rule_are_rejected(rows: dict[str, MatrixRow]) -> None:
    assert rows["rule-tos-ecn"].ipv4.startswith("rejected")
    assert rows["rule-tos-ecn"].ipv6.startswith("rejected")


def test_the_dscp_selector_is_exact_where_the_kernel_has_it_and_dangerous_where_not(rows: dict[str, MatrixRow]) -> None:
    row = rows["rule-dscp"]
    known = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 13)
    expected = "matches EF alone" if known else "accepted, matches every packet"
    assert (row.ipv4, row.ipv6) == (expected, expected) or (not known and row.ipv4.startswith("rejected"))
    assert bool(row.breaks) is not known


def test_a_route_for_ef_is_taken_and_never_used_on_ipv4_and_rejected_on_ipv6(rows: dict[str, MatrixRow]) -> None:
    assert rows["route-tos-0xb8"].ipv4 == "accepted, matches nothing"
    assert "EF" in rows["route-tos-0x18"].ipv4
    assert rows["route-tos-0xb8"].ipv6.startswith("rejected")
    assert rows["route-tos-0x18"].ipv6.startswith("rejected")


def test_udp_puts_ecn_bits_on_the_wire_and_tcp_masks_them(rows: dict[str, MatrixRow]) -> None:
    for key in ("udp-option", "udp-message"):
        assert rows[key].ipv4 == rows[key].ipv6 == "all 8 bits arrive as set"
    for key in ("tcp-option-syn", "tcp-option-data"):
        assert rows[key].ipv4 == rows[key].ipv6 == "the DSCP arrives, ECN bits are masked"
    assert rows["tcp-message"].ipv4 == rows["tcp-message"].ipv6 == "no effect"


@pytest.mark.parametrize("key", ["udp-option-mapped", "udp-message-mapped", "tcp-option-syn-mapped"])
def test_tclass_is_without_effect_on_mapped_peers(rows: dict[str, MatrixRow], key: str) -> None:
    assert rows[key].ipv4 != "no effect"
    assert rows[key].ipv6 == "no effect"


def test_the_priority_follows_on_ipv4_alone(rows: dict[str, MatrixRow]) -> None:
    assert "EF 4, AF41 2" in rows["priority-option"].ipv4
    assert rows["priority-option"].ipv6 == "stays 0"


def test_forwarding_keeps_the_bits_and_the_route_depends_on_them(rows: dict[str, MatrixRow]) -> None:
    assert rows["forward-bits"].ipv4 == rows["forward-bits"].ipv6 == "all 8 bits arrive as set"
    assert not rows["forward-rule-tos"].families_agree
    assert "EF" in rows["forward-rule-tos"].ipv4


@pytest.mark.parametrize("outer", [4, 6])
def test_tunnels_inherit_dscp_and_ecn_outwards_and_only_congestion_inwards(rows: dict[str, MatrixRow], outer: int) -> None:
    outwards, inwards = (rows[f"vxlan-over-ipv{outer}-{way}"] for way in ("outwards", "inwards"))
    assert outwards.ipv4 != NOT_HERE
    assert "DSCP carried, ECN copied" in outwards.ipv4
    assert "the inner DSCP stays, ECN by RFC 6040" in inwards.ipv4


def sections() -> dict[str, dict[str, list[str]]]:
    """The reference: by kernel, by key, the cells of a row."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## Linux"):
            found[line.removeprefix("## ")] = {}
        match = re.match(r"\| `([a-z0-9-]+)` \| (.*) \|$", line)
        if match is not None and found:
            found[list(found)[-1]][match.group(1)] = match.group(2).split(" | ")
    return found


def test_the_reference_has_the_same_rows_for_each_kernel(rows: dict[str, MatrixRow]) -> None:
    assert len(sections()) >= 1
    for kernel, documented in sections().items():
        assert list(documented) == list(rows), kernel


def test_the_reference_says_of_this_kernel_what_it_does(rows: dict[str, MatrixRow]) -> None:
    """Where the reference knows this very kernel; what other people's tools can set is left out."""
    documented = sections().get(matrix.kernel_name(), {})
    for key, cells in documented.items():
        if not key.startswith("rule-dscp-") and NOT_HERE not in (rows[key].ipv4, cells[1]):
            assert cells[1:3] == [rows[key].ipv4, rows[key].ipv6], key
