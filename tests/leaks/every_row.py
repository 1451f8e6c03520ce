"""The wire watched through each row of docs/faults.md, and what others do to the machine: `make leaks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.leaks.faults import Fault
from tests.leaks.watched import ALL, nothing_leaves


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.rows[0])
def test_nothing_leaves_outside_of_the_tunnel(fault: Fault, tmp_path: Path) -> None:
    nothing_leaves(fault, tmp_path)
