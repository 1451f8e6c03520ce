"""A check of what tests say they cause."""

from collections.abc import Iterator

import pytest
from qosctl.supervisor.doctor.finding import Level

from tests.supervisor.doctor.looking import noted


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark of looking.causes known."""
    config.addinivalue_line("markers", "causes(check, words): this finding is brought about for real")


@pytest.fixture(autouse=True)
def what_is_caused_was_seen(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that says to cause a finding and has not looked at it."""
    with noted() as found:
        yield
    bad = [(f.check, f"{f.seen} | {f.means} | {f.fix}") for f in found if f.level is not Level.PASS]
    for mark in request.node.iter_markers("causes"):
        check, words = mark.args
        assert any(check == of and words in said for of, said in bad), (mark.args, bad)
