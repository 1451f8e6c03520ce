"""A helper enters the flows that its client shows it, and no others (11); and waits for no lock meanwhile (13)."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from qosctl.supervisor.tunnel.helper_client import HelperClient, RemoteMarker

from tests.lab import Namespace
from tests.lab.lock import somebody_holds_the_lock
from tests.lab.waiting import until
from tests.lab.wire import ADDRESSES
from tests.supervisor.tunnel.taken_over import GIVEN, PATIENCE_S, SERVER, Begin, flows, outer

pytestmark = pytest.mark.audit

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection is reset, whatever has not been sent."""


def test_a_flow_is_a_socket_that_is_really_there(begin: Begin) -> None:
    client = begin()
    with ExitStack() as stack:
        far = stack.enter_context(Namespace("strangers"))
        far.run(["ip", "address", "add", f"{ADDRESSES[4][0]}/24", "dev", "lo"])
        with far.entered():
            abroad = stack.enter_context(outer())
        alone = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local, other = (stack.enter_context(each) for each in socket.socketpair())
        raw = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP))
        raw.connect((SERVER[0], 0))
        file = stack.enter_context(Path("/dev/null").open())
        before = client.descriptors
        for shown in (abroad, alone, listening, local, other, raw, file):
            assert "refused" in client.ask("flow", shown.fileno()), shown
        assert client.descriptors == before
        good = stack.enter_context(outer())
        assert client.ask("flow", good.fileno())["answer"] is True
        (flow,) = flows()
        assert flow.key.local == good.getsockname()


def test_a_socket_whose_other_end_has_gone_already_is_refused_in_silence(begin: Begin) -> None:
    """It is nobody's fault: a server may reset the connection just when its flow is to be entered."""
    client = begin()
    with outer() as good, socket.create_server(("127.0.0.1", 0)) as server:
        reset = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        taken.close()
        with reset:
            with pytest.raises(ConnectionResetError):
                reset.recv(1)
            answer = client.ask("flow", reset.fileno())
        assert (answer["refused"], answer["why"]) == ("RefusedError", "the other end of the socket has gone already")
        assert client.warnings == []
        assert client.ask("flow", good.fileno())["answer"] is True


def test_another_clients_flow_is_not_to_be_had(begin: Begin) -> None:
    victim, client = begin(), begin()
    with outer(shared=True) as theirs, outer(shared=True, port=theirs.getsockname()[1]) as ours:
        assert victim.ask("flow", theirs.fileno())["answer"] is True
        (before,) = flows()
        open_before = client.descriptors
        assert client.ask("flow", ours.fileno())["answer"] is False
        client.ask("no flow")
        (after,) = flows()
        assert (after.key, after.ring_id) == (before.key, before.ring_id)
        assert client.descriptors == open_before
        assert "another tunnel goes from" in " ".join(client.warnings)


def test_a_flow_that_moves_on_leaves_nothing_behind(begin: Begin) -> None:
    client = begin()
    counts: list[int] = []
    for _ in range(20):
        with outer() as shown:
            assert client.ask("flow", shown.fileno())["answer"] is True
            (flow,) = flows()
            assert flow.key.local == shown.getsockname()
            counts.append(len(client.descriptors))
            until(lambda: len(client.descriptors) <= counts[0])  # a thread of its own closes what it was shown


def test_nobody_waits_for_a_lock_and_the_flow_is_entered_when_it_is_free(begin: Begin, tmp_path: Path) -> None:
    client = begin()
    marker = RemoteMarker(HelperClient(client.connection, print))
    with outer() as shown:
        with somebody_holds_the_lock():
            began = time.monotonic()
            marker.flow_opened(shown.fileno(), "vpn0")
            for _ in range(100):
                assert marker.memory() is None
                assert marker.waiting
            assert time.monotonic() - began < 5  # of somebody else's for ever
            client.ask("apply", given=GIVEN)
            while not client.ask("settle")["answer"]:
                pass
            assert (tmp_path / "calls").read_text() == "connect tun0 10.92.0.2\n"
        deadline = time.monotonic() + PATIENCE_S
        while marker.memory() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(flows()) == 1
