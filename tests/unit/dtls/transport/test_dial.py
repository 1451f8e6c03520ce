"""Where the server is looked for again: where it was, even when nobody can say any more what its name means."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from qosctl.dtls.transport.dial import Address, UnreachableError, dial
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.vpn.server_url import Gateway


@pytest.fixture(name="server")
def server_fixture() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture(name="stop")
def stop_fixture() -> Iterator[Stop]:
    stop = Stop()
    yield stop
    stop.close()


def known(server: socket.socket) -> Address:
    return socket.AF_INET, server.getsockname()


def test_a_name_that_cannot_be_resolved_is_where_it_was(server: socket.socket, stop: Stop) -> None:
    gateway = Gateway("nobody-knows.invalid", server.getsockname()[1], "/")
    with dial(gateway, time.monotonic() + 10, stop, known(server)) as connected:
        assert connected.getpeername() == server.getsockname()
    with pytest.raises(UnreachableError):
        dial(gateway, time.monotonic() + 3, stop)


def test_where_it_was_comes_first_while_the_name_leads_there(server: socket.socket, stop: Stop) -> None:
    """Others may be closer; the route beside the tunnel leads to this one."""
    port = server.getsockname()[1]
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", port))
        other.listen()
        with dial(Gateway("localhost", port, "/"), time.monotonic() + 10, stop, known(server)) as connected:
            assert connected.getpeername() == server.getsockname()


def test_where_it_was_comes_last_when_the_name_leads_elsewhere(server: socket.socket, stop: Stop) -> None:
    with socket.create_server(("127.0.0.2", server.getsockname()[1])) as moved:
        gateway = Gateway("127.0.0.2", moved.getsockname()[1], "/")
        with dial(gateway, time.monotonic() + 10, stop, known(server)) as connected:
            assert connected.getpeername() == moved.getsockname()
        moved.close()
        with dial(gateway, time.monotonic() + 10, stop, known(server)) as connected:
            assert connected.getpeername() == server.getsockname()
