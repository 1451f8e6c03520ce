"""A helper marks its client's own sockets, so that they get past the kill switch, and nothing else (11)."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.transport.outer_sockets import MARK, NoSocketError
from qosctl.supervisor.tunnel.helper_client import HelperClient
from qosctl.supervisor.tunnel.helper_sockets import RemoteSockets

from tests.lab import Namespace
from tests.supervisor.tunnel.taken_over import PATIENCE_S, Begin

pytestmark = pytest.mark.audit


def test_only_what_may_carry_a_tunnel_is_marked(begin: Begin) -> None:
    client = begin()

    def mark_of(shown: socket.socket) -> int:
        return shown.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)

    with ExitStack() as stack:
        far = stack.enter_context(Namespace("strangers"))
        with far.entered():
            abroad = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        local, other = (stack.enter_context(each) for each in socket.socketpair())
        file = stack.enter_context(Path("/dev/null").open())
        before = client.descriptors
        for shown in (abroad, raw, local, other, file):
            assert "refused" in client.ask("mark", shown.fileno()), shown
        assert [mark_of(each) for each in (abroad, raw, local, other)] == [0, 0, 0, 0]
        for family, kind in itertools.product((socket.AF_INET, socket.AF_INET6), (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            good = stack.enter_context(socket.socket(family, kind))
            assert client.ask("mark", good.fileno())["answer"] is True
            assert mark_of(good) == MARK
        assert client.descriptors == before


def in_time(sockets: RemoteSockets, family: int) -> socket.socket:
    """Open a socket for DTLS as soon as there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(RefusedError):
            return sockets.open(family, socket.SOCK_DGRAM)
        time.sleep(0.01)
    raise TimeoutError("no socket")


def test_while_packets_pass_nobody_waits_for_a_mark(begin: Begin) -> None:
    """The helper hangs: a socket for TLS is waited for, between sessions; one for the next DTLS handshake never is."""
    client = begin()
    with closing(RemoteSockets(HelperClient(client.connection, print), needed=True)) as sockets:
        with sockets.open(socket.AF_INET, socket.SOCK_STREAM) as first, in_time(sockets, socket.AF_INET) as second:
            assert [each.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for each in (first, second)] == [MARK, MARK]
        os.kill(client.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with suppress(RefusedError):  # the one that was marked ahead of time, perhaps
                sockets.open(socket.AF_INET, socket.SOCK_DGRAM).close()
            for _ in range(50):
                with pytest.raises(RefusedError, match="has not come to it yet"):
                    sockets.open(socket.AF_INET, socket.SOCK_DGRAM)
            assert time.monotonic() - began < 4  # an answer that is waited for may take 5
        finally:
            os.kill(client.pid, signal.SIGCONT)
        with in_time(sockets, socket.AF_INET) as third:
            assert third.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == MARK
        os.kill(client.pid, signal.SIGKILL)
        os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
        with suppress(NoSocketError):  # what it had answered before counts
            sockets.open(socket.AF_INET, socket.SOCK_DGRAM).close()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with pytest.raises(NoSocketError, match="the helper is gone"):
                sockets.open(socket.AF_INET, kind)
