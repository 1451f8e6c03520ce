"""A fresh stand (two namespaces and a wire) for each test that asks for one."""

from collections.abc import Iterator

import pytest

from tests.supervisor.stand import Stand, stand


@pytest.fixture(name="stand")
def stand_fixture() -> Iterator[Stand]:
    with stand() as built:
        yield built
