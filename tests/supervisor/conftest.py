"""A fresh stand for each test that asks for one."""

from collections.abc import Iterator

import pytest

from tests.lab.wire import Stand, stand


@pytest.fixture(name="stand")
def stand_fixture() -> Iterator[Stand]:
    with stand() as built:
        yield built
