"""What happens to the server and the path to it: rows that stand for their kind, of those of `make leaks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.leaks.faults import Fault
from tests.leaks.watched import named, nothing_leaves

FAULTS = named(
    "server killed",
    "thrown out by the operator",
    "TLS dead (reset), DTLS alive",
    "path shrinks, and says so",
)


@pytest.mark.audit
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rows[0])
def test_nothing_leaves_outside_of_the_tunnel(fault: Fault, tmp_path: Path) -> None:
    nothing_leaves(fault, tmp_path)
