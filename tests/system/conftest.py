"""One line for all, and proof after each test that the client's machine is as it was before."""

from collections.abc import Iterator

import pytest
from qosctl.supervisor.devices.passtos import set_passtos

from tests.lab import Qosctl
from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import Wiretap
from tests.system.silence import Silences
from tests.system.traces import traces


@pytest.fixture(scope="session", autouse=True)
def silences() -> Iterator[Silences]:
    """Attempts that take long and cost nothing, begun before the first test."""
    with Silences() as made:
        yield made


@pytest.fixture(scope="session")
def shared_line() -> Iterator[Line]:
    """Building a line and ending its server takes longer than most tests: one serves them all."""
    with Line() as made:
        yield made


@pytest.fixture(scope="module")
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """Topology and server; a module that needs more in the server's configuration says so with OCSERV."""
    more = getattr(request.module, "OCSERV", "")
    if not more:
        yield request.getfixturevalue("shared_line")
        return
    with Line(more) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(line: Line) -> Iterator[None]:
    before = traces(line.client)
    yield
    assert traces(line.client) == before


@pytest.fixture
def attached(line: Line) -> Iterator[Line]:
    """The line with the program on the client's device, switched off."""
    with line.attached():
        yield line


@pytest.fixture
def tap(line: Line) -> Iterator[Wiretap]:
    with Wiretap(line) as made:
        yield made


@pytest.fixture
def inside(line: Line) -> Iterator[Inside]:
    with Inside(line) as made:
        yield made


@pytest.fixture
def ends(line: Line) -> Iterator[list[Qosctl]]:
    """Client and server attached and switched on, with nothing followed."""
    both = [line.qosctl, Qosctl(line.server_namespace)]
    try:
        for qosctl in both:
            qosctl.attach("eth0")
            with qosctl.namespace.entered():
                set_passtos(True)
        yield both
    finally:
        for qosctl in both:
            qosctl.detach_all()
