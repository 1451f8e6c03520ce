"""The bench's table: rows by name, and how runs come together in it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.bottleneck import joined, median_of
from tests.bench.picture import draw, table
from tests.bench.rows import BY_NAME, ROWS, beside_busy, named
from tests.bench.sides import QOSCTL_AUTO, SIDES


def figures(row: str, client: str = QOSCTL_AUTO.name, **more: float) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "row": row, "client": client, "call_sent": 400, "call_lost": 0, "call_replayed": 0, "call_p99_ms": 1.5,
        "bulk_mbit": 4.0, "bulk_sent": 1000, "bulk_arrived": 900, "outer_received": 2000, "replay_dropped": 10,
    }  # fmt: skip
    return usual | more


def test_each_row_has_a_name_of_its_own_and_keeps_it_beside_a_busy_loop() -> None:
    assert len(BY_NAME) == len(ROWS) == len({row.shown for row in ROWS})
    for row in ROWS:
        assert named(row.name) == row
        assert named(beside_busy(row).name) == beside_busy(row)
    assert named("10-udp-call") is None


def test_new_figures_take_the_place_of_old_ones_in_the_order_of_the_table() -> None:
    known = [figures("burst-5"), figures("5-udp-call", SIDES[0].name), {"rate_mbit": 5}, figures("a row of last year")]
    new = [figures("burst-5", call_lost=3), figures("5-udp-call"), figures("5-udp-call+busy")]
    table = joined(known, new)
    assert [(each["row"], each["client"]) for each in table] == [
        ("5-udp-call", SIDES[0].name),
        ("5-udp-call", QOSCTL_AUTO.name),
        ("5-udp-call+busy", QOSCTL_AUTO.name),
        ("burst-5", QOSCTL_AUTO.name),
    ]
    assert table[-1]["call_lost"] == 3


def test_several_runs_are_shown_by_their_median_and_kept() -> None:
    runs = [figures("burst-5", call_lost=lost) for lost in (7, 0, 1)]
    middle = median_of(runs)
    assert (middle["row"], middle["call_lost"]) == ("burst-5", 1)
    assert [each["call_lost"] for each in middle["each"]] == [7, 0, 1]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_can_be_printed_and_drawn(row: Any) -> None:
    measured = [figures(row.name, side.name) for side in SIDES]
    assert f"| {row.shown} |" in table(measured)
    draw([*measured, figures("20-udp-call")])
