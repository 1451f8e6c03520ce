"""UDP that is blocked while packets go one way only: who listens would never know, and who is heard no more, neither.

The server is patient here (DPD of a minute), so that it is not its time-outs that end the silence.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import Namespace
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.flowing import Row, note

OCSERV = "dpd = 60\nswitch-to-tcp-timeout = 25\n"  # the second as Debian's configuration has it
BOUND_S = 20.0
PORT = 4200
INTERVAL_S = 0.01
WAYS = {"both ways": "udp dport {0} drop; udp sport {0} drop", "towards us": "udp sport {0} drop",
        "towards the server": "udp dport {0} drop"}  # fmt: skip


class Stream:
    """Datagrams in one direction, 100 a second, and when each came."""

    def __init__(self, source: Namespace, sink: Namespace, address: str) -> None:
        self._source, self._sink, self._address = source, sink, address
        self.came: list[float] = []
        self.sent = 0

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        with self._sink.entered():
            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            far.bind((self._address, PORT))
            far.settimeout(0.1)
        with self._source.entered():
            near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stop = threading.Event()
        threads = [threading.Thread(target=run, args=(sock, stop)) for run, sock in ((self._send, near), (self._take, far))]
        try:
            for thread in threads:
                thread.start()
            self.wait(time.monotonic())
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            near.close()
            far.close()

    def wait(self, since: float, timeout: float = 40) -> float:
        """Wait for a datagram that comes after `since`; return how long after."""
        deadline = time.monotonic() + timeout
        while not self.came or self.came[-1] <= since:
            assert time.monotonic() < deadline, "nothing comes any more"
            time.sleep(0.01)
        return next(each for each in self.came if each > since) - since

    def _send(self, sock: socket.socket, stop: threading.Event) -> None:
        while not stop.wait(INTERVAL_S):
            with contextlib.suppress(OSError):
                sock.sendto(bytes(100), (self._address, PORT))
                self.sent += 1

    def _take(self, sock: socket.socket, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                sock.recv(200)
                self.came.append(time.monotonic())


@contextlib.contextmanager
def blocked(line: Line, way: str) -> Iterator[float]:
    """Let the router drop the tunnel's UDP packets; yields since when."""
    rules = WAYS[way].format(line.server.port)
    with line.topology.dropping(rules):
        yield time.monotonic()


@contextlib.contextmanager
def silent_kernel(line: Line) -> Iterator[None]:
    """Keep the kernel from asking for IPv6 routers: nothing of ours shall go out through the tunnel."""
    name = "net.ipv6.conf.default.router_solicitations"
    line.client.sysctl(name, "0")
    try:
        yield
    finally:
        line.client.sysctl(name, "-1")


def _state(line: Line) -> int:
    said = json.loads(line.qosctl("flows", "--json", check=False).stdout)  # none while one takes the place of another
    return max((int(flow["statistics"]["state"]) for flow in said["flows"]), default=0)


def _address(line: Line) -> str:
    return str(line.client.run(["ip", "-4", "-o", "addr", "show", "dev", TUNNEL]).stdout.split()[3].partition("/")[0])


@pytest.mark.parametrize("way", ["both ways", "towards us"])
def test_who_only_listens_hears_again(line: Line, way: str) -> None:
    with silent_kernel(line), line.connected() as connection:
        until(lambda: _state(line) == 2, 40)
        stream = Stream(line.server_namespace, line.client, _address(line))
        with stream.flowing():
            time.sleep(1)
            with blocked(line, way) as since:
                seconds = stream.wait(since + 0.1) + 0.1
                assert _state(line) == 1
                assert "no answer over UDP any more: packets go over TLS" in connection.errors
                time.sleep(1)  # and it goes on
                stream.wait(time.monotonic())
            until(lambda: _state(line) == 2, 40)
            stream.wait(time.monotonic())
            lost = stream.sent - len(stream.came)
    note(Row(f"UDP blocked {way} while we only receive", "no answer over UDP any more: packets go over TLS, unmarked",
             "blocked", seconds, lost, None))  # fmt: skip
    assert seconds < BOUND_S


def test_who_is_heard_no_more_finds_out_although_packets_come(line: Line) -> None:
    with line.connected() as connection:
        until(lambda: _state(line) == 2, 40)
        address = _address(line)
        down = Stream(line.server_namespace, line.client, address)
        up = Stream(line.client, line.server_namespace, line.server.inner4)
        with down.flowing(), up.flowing():
            time.sleep(1)
            with blocked(line, "towards the server") as since:
                seconds = up.wait(since + 0.1) + 0.1
                assert down.wait(time.monotonic()) < BOUND_S
                assert "no answer over UDP any more: packets go over TLS" in connection.errors
            until(lambda: _state(line) == 2, 40)
            up.wait(time.monotonic())
            lost = up.sent - len(up.came)
    words = "no answer over UDP any more: packets go over TLS, unmarked"
    note(Row("UDP blocked towards the server while packets come", words, "blocked", seconds, lost, None))
    assert seconds < 2 * BOUND_S
