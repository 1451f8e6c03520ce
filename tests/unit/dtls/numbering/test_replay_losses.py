"""What is suspected to be dropped for its number, beside what a simulated server has dropped."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering

from tests.simulator.case import Bursts, Call, Case, Path, Server, Source
from tests.simulator.run import Outcome, World
from tests.simulator.steady import offered


def run(*sources: Source, path: Path = Path(), server: Server = Server(), seconds: float = 6.0) -> Outcome:  # noqa: B008  (frozen)
    return World(Case(sources, path, server=server, seconds=seconds), ReplaySafeNumbering()).run()


@pytest.mark.parametrize(
    ("bulk", "path"),
    [
        (offered("tcp", 20), Path()),
        (offered("udp", 20), Path(round_trip_ms=30.0)),
        ([Bursts(kilobytes=240.0, period_s=0.3)], Path(mbit=10.0)),
        ([Bursts(kilobytes=120.0, period_s=0.5)], Path(mbit=5.0)),
    ],
    ids=["flows", "a queue that is always full", "bursts", "shorter bursts"],
)
def test_the_losses_of_bulk_are_counted_within_a_factor_of_two(bulk: Sequence[Source], path: Path) -> None:
    outcome = run(Call(), *bulk, path=path)
    assert outcome.replayed > 50
    assert outcome.replayed / 2 <= outcome.suspected <= outcome.replayed * 2


def test_where_nothing_is_dropped_nothing_is_suspected() -> None:
    alone = run(Call(), *offered("tcp", 20), path=Path(lanes="one"))
    assert alone.replayed == 0
    assert alone.suspected <= 0.005 * alone.records
    wide = run(Call(), *offered("tcp", 20), server=Server(window=1024))
    assert wide.replayed == 0
    assert wide.suspected <= 0.02 * wide.classes["DF"].arrived


def test_losses_on_the_way_are_no_replays() -> None:
    outcome = run(Call(), *offered("tcp", 20), path=Path(lanes="one", loss=0.02))
    assert outcome.replayed == 0
    assert outcome.suspected <= 0.005 * outcome.records
