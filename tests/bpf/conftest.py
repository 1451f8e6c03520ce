"""One loaded program for all tests of it; each test finds it switched on, with the identity policy and an empty ring."""

from collections.abc import Iterator

import pytest
from qosctl.bpf.maps.policy import Policy

from tests.lab.program import Kernel, kernel


@pytest.fixture(scope="session")
def loaded() -> Iterator[Kernel]:
    with kernel() as loaded:
        yield loaded


@pytest.fixture
def program(loaded: Kernel) -> Kernel:
    loaded.state.control.passtos = True
    if loaded.state.policy.read() != Policy.identity():
        loaded.state.policy.write(Policy.identity())
    loaded.ring.marks[:] = memoryview(bytes(loaded.ring.marks.nbytes)).cast("Q")
    return loaded
