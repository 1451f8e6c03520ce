"""A helper whose client has been taken over ends with it all the same, and undoes what is to be undone (11)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.supervisor.tunnel.taken_over import GIVEN, PATIENCE_S, Begin, request

pytestmark = pytest.mark.audit


@contextmanager
def closing_takes_an_hour() -> Iterator[int]:
    """A TCP socket whose last descriptor waits for a far end that reads nothing. Whoever gets it closes it."""
    with socket.create_server(("127.0.0.1", 0)) as far, socket.socket() as near:
        near.connect(far.getsockname())
        near.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                near.send(bytes(1 << 16))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        yield near.detach()


@pytest.mark.parametrize("beside", [1, 5], ids=["one", "five"])
def test_a_socket_that_does_not_close_keeps_nothing_waiting(begin: Begin, tmp_path: Path, beside: int) -> None:
    """Finding 11: else a client that was taken over decides when its routes and its device go."""
    client = begin()
    client.ask("apply", given=GIVEN)
    with closing_takes_an_hour() as shown:
        client.give(shown, beside)
        client.ask("settle")
        client.connection.close()
        deadline = time.monotonic() + PATIENCE_S
        while "disconnect" not in (tmp_path / "calls").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_client_whose_sockets_do_not_close_is_let_go(begin: Begin) -> None:
    client = begin()
    with closing_takes_an_hour() as shown:
        client.give(shown, 1)
        with socket.socket() as other, suppress(AssertionError, ConnectionError):
            for _ in range(4):
                client.say(request("settle"), (other.fileno(),) * 250)
        deadline = time.monotonic() + PATIENCE_S
        while not client.warnings:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "cannot be closed" in client.warnings[-1]


def test_a_helper_whose_answers_nobody_reads_still_notices_the_end(begin: Begin) -> None:
    client = begin()
    client.connection.setblocking(False)
    try:
        while True:
            client.connection.send(request("settle"))
    except BlockingIOError:
        pass
    # The fixture ends it, and waits.
