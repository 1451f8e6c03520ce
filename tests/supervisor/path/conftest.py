"""The chain of routers, built once a file."""

from collections.abc import Iterator

import pytest

from tests.supervisor.path.chain import Chain, chain


@pytest.fixture(scope="module")
def way() -> Iterator[Chain]:
    with chain() as way:
        yield way


@pytest.fixture(autouse=True)
def rested(request: pytest.FixtureRequest) -> None:
    """Routers answer a peer six times in a burst: give them back what the test before used up."""
    if "way" in request.fixturenames:
        for node in request.getfixturevalue("way").nodes:
            node.sysctl("net.ipv4.icmp_ratelimit", "0")
            node.sysctl("net.ipv6.icmp.ratelimit", "0")
