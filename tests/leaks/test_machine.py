"""What happens to the client and its machine: rows that stand for their kind, of those of `make leaks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.leaks.faults import Fault
from tests.leaks.watched import named, nothing_leaves

FAULTS = named(
    "client killed, started again",
    "another local address and route",
    "suspended for 3 s",
    "default routes, and halves of everything, set by others",
)


@pytest.mark.audit
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rows[0])
def test_nothing_leaves_outside_of_the_tunnel(fault: Fault, tmp_path: Path) -> None:
    nothing_leaves(fault, tmp_path)
