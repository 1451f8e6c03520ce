"""A helper whose client has been taken over: it does its own work and no other, and comes to no harm (11, 13)."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.dtls.transport.outer_sockets import MARK, NoSocketError
from qosctl.supervisor.tunnel import helper_messages
from qosctl.supervisor.tunnel.flow_marker import FlowMarker
from qosctl.supervisor.tunnel.helper import Helper
from qosctl.supervisor.tunnel.helper_client import HelperClient, RemoteMarker
from qosctl.supervisor.tunnel.helper_device import HelperDevice
from qosctl.supervisor.tunnel.helper_messages import MESSAGE_BYTES_MAX
from qosctl.supervisor.tunnel.helper_sockets import RemoteSockets
from qosctl.supervisor.tunnel.vpnc_script import Script

from tests.lab import Namespace
from tests.lab.lock import somebody_holds_the_lock
from tests.lab.wire import ADDRESSES, Stand

pytestmark = pytest.mark.audit

SERVER = (ADDRESSES[4][1], 4443)
PATIENCE_S = 20.0


class Taken:
    """The end of a client that was taken over: it says whatever it likes, as it likes."""

    def __init__(self, helper: Helper, warnings: Path) -> None:
        self.connection = helper.connection
        self.pid = helper._pid
        self._folder = Path(f"/proc/{helper._pid}/fd")
        self._warnings = warnings
        self._number = 1000

    def say(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send bytes, after whatever stands before them in the queue; what was answered before is forgotten."""
        self.drain()
        self.connection.setblocking(True)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(each.to_bytes(4, "little") for each in descriptors))]
        self.connection.sendmsg([message], rights if descriptors else [])

    def give(self, descriptor: int, times: int) -> None:
        """Send a descriptor beside a request, and be the first to close it."""
        pid = int(self._folder.parent.name)
        os.kill(pid, signal.SIGSTOP)
        try:
            self.say(request("settle"), (descriptor,) * times)
            os.close(descriptor)
        finally:
            os.kill(pid, signal.SIGCONT)

    def drain(self) -> list[dict[str, Any]]:
        """Read what has been answered; descriptors are closed."""
        said = []
        try:
            while True:
                message, descriptors, _ = helper_messages.receive(self.connection)
                for each in descriptors:
                    os.close(each)
                assert message, "the helper is gone"
                said.append(json.loads(message))
        except BlockingIOError:
            return said

    def ask(self, kind: str, *descriptors: int, **arguments: Any) -> dict[str, Any]:
        """Ask, and return the answer."""
        self._number += 1
        self.say(json.dumps({"number": self._number, "kind": kind, "arguments": arguments}).encode(), descriptors)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for said in self.drain():
                if said["number"] == self._number:
                    return said
            time.sleep(0.005)
        raise TimeoutError(kind)

    @property
    def descriptors(self) -> list[str]:
        """What the helper has open when it has done what it was asked."""
        self.ask("settle")
        return sorted(os.readlink(each) for each in self._folder.iterdir())  # noqa: PTH115 - no path comes out

    @property
    def warnings(self) -> list[str]:
        """What the helper has said to people."""
        return self._warnings.read_text().splitlines()


Begin = Callable[..., Taken]


@pytest.fixture
def begin(stand: Stand, tmp_path: Path) -> Iterator[Begin]:
    """Begin helpers that have a script, whose calls go into the file `calls`."""
    del stand  # it is where we are
    script, calls, warnings = tmp_path / "script", tmp_path / "calls", tmp_path / "warnings"
    script.write_text(f'#!/bin/sh\necho "$reason $TUNDEV $VPNGATEWAY" >>{calls}\n')
    script.chmod(0o755)
    calls.touch()
    warnings.touch()

    def warn(line: str) -> None:
        with warnings.open("a") as file:
            print(line, file=file)

    with ExitStack() as stack:

        def made(tunnel: str | None = None, *, device: bool = True) -> Taken:
            pid = os.getpid()
            runner = Script(str(script), None, pid, warn)
            helper = Helper.start(HelperDevice(tunnel), FlowMarker("vpn.example:443", pid, warn), runner, None, warn)
            stack.callback(helper.end)
            client = Taken(helper, warnings)
            if device:
                assert client.ask("device", mtu=1400, addresses=["192.168.77.5/24"])["answer"].startswith("tun")
            return client

        yield made


@contextmanager
def outer(*, shared: bool = False, to: tuple[str, int] = SERVER, port: int = 0) -> Iterator[socket.socket]:
    """A socket of a tunnel; a `shared` one lets others have the same port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((ADDRESSES[4][0], port))
        made.connect(to)
        yield made


def flows() -> list[Flow]:
    with open_state() as state:
        return list(state.flows)


def request(kind: str, **arguments: Any) -> bytes:
    return json.dumps({"number": 7, "kind": kind, "arguments": arguments}).encode()


GIVEN = {
    "tunnel": "vpn0", "gateway": "10.92.0.2", "mtu": 1400, "addresses": ["192.168.77.5/24"], "include": [], "exclude": [],
    "splits": [], "dns": [], "nbns": [], "domain": "", "split_dns": [], "idle_s": 0, "banner": "", "discarded": 0,
}  # fmt: skip
SENSELESS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "no object": b"[]",
    "a number": b"7",
    "nothing in it": b"{}",
    "deep": b"[" * 60_000,
    "deep inside": b'{"number": 7, "kind": "apply", "arguments": {"given": '
    + b'{"a":' * 20_000
    + b"1"
    + b"}" * 20_000
    + b"}}",
    "half a surrogate pair": rb'{"number": 7, "kind": "flow", "arguments": {"tunnel": "\ud800"}}',
    "half a pair for the script": request("apply", given={**GIVEN, "domain": "x"}).replace(b'"x"', rb'"\udfff"'),
    "too long": b" " * (MESSAGE_BYTES_MAX + 1),
    "a number beyond": request("settle").replace(b"7", b"9" * 30, 1),
    "a number too long to read": request("settle").replace(b"7", b"9" * 5000, 1),
    "a number that is true": request("settle").replace(b"7", b"true", 1),
    "a number that is none": request("settle").replace(b"7", b"NaN", 1),
    "no such kind": request("reboot"),
    "a kind that is a list": b'{"number": 7, "kind": [], "arguments": {}}',
    "arguments that are a list": b'{"number": 7, "kind": "flow", "arguments": [["10.0.0.1", 70000], ["10.0.0.2", 1], ""]}',
    "a flow of no socket": request("flow"),
    "a flow of words": request("flow", local=["10.92.0.1", 70000], remote=["10.92.0.2", 4443]),
    "a mark for no socket": request("mark"),
    "another device": request("device", mtu=1400, addresses=[]),
    "an MTU of nothing": request("fit"),
    "an MTU of a word": request("fit", mtu="1400; reboot"),
    "an MTU beyond": request("fit", mtu=1 << 40),
    "an address of this machine": request("readdress", addresses=["127.0.0.1/8"]),
    "an address that takes all": request("readdress", addresses=["10.0.0.1/0"]),
    "too many addresses": request("readdress", addresses=[f"10.0.0.{n}/32" for n in range(1, 99)]),
    "a tunnel that is a command": request("apply", given={**GIVEN, "tunnel": ";>owned"}),
    "a tunnel that is an option": request("apply", given={**GIVEN, "tunnel": "-x"}),
    "addresses of anything": request("apply", given={**GIVEN, "addresses": [{}]}),
    "a gateway that is none": request("apply", given={**GIVEN, "gateway": "`id`"}),
    "an MTU that is none": request("apply", given={**GIVEN, "mtu": -1}),
    "nothing given": request("prepare"),
}


def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(begin: Begin, tmp_path: Path) -> None:
    client = begin()
    assert client.ask("settle") == {"number": 1002, "answer": True}
    before = client.descriptors
    with outer() as shown:
        for name, message in SENSELESS.items():
            for descriptors in ((), (shown.fileno(),) if b'"flow"' not in message else (), (0, 1, shown.fileno())):
                client.say(message, descriptors)
            assert "answer" in client.ask("settle"), name
    assert client.descriptors == before
    assert len(client.warnings) == 1
    assert "Traceback" not in client.warnings[0]
    assert (tmp_path / "calls").read_text() == ""
    assert not list(tmp_path.glob("owned"))


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
    counts = set()
    for _ in range(20):
        with outer() as shown:
            assert client.ask("flow", shown.fileno())["answer"] is True
            (flow,) = flows()
            assert flow.key.local == shown.getsockname()
            counts.add(len(client.descriptors))
    assert len(counts) == 1


def test_a_client_that_asks_for_much_waits_and_the_script_is_not_run_more_often(begin: Begin, tmp_path: Path) -> None:
    client = begin()
    client.ask("apply", given=GIVEN)
    client.connection.setblocking(False)
    began = time.monotonic()
    numbers = itertools.count()
    while time.monotonic() < began + 3:
        try:
            client.connection.send(request("apply", given={**GIVEN, "idle_s": next(numbers)}))
        except BlockingIOError:
            client.drain()
            time.sleep(0.001)
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert next(numbers) > 50
    assert calls <= 2 * (10 + 3 + 1)  # each is a disconnect and a connect


def test_a_steward_whose_answers_nobody_reads_still_notices_the_end(begin: Begin) -> None:
    client = begin()
    client.connection.setblocking(False)
    try:
        while True:
            client.connection.send(request("settle"))
    except BlockingIOError:
        pass
    # The fixture ends it, and waits.


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
