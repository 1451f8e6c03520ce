"""A path that takes less than it did: packets of every size go on arriving, whether the path says so or not."""

import time

from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.flowing import Row, note

ROUTER = "10.91.1.1"
FULL = 1400 - 28  # bytes of ping that make an inner packet of 1400
OCSERV = "dpd = 5\n"


def _passes(line: Line, size: int) -> bool:
    words = ["ping", "-c", "1", "-W", "1", "-s", str(size), line.server.inner4]
    return line.client.run(words, check=False).returncode == 0


def _statistics(line: Line) -> dict[str, int]:
    return line.qosctl.statistics()


def test_a_path_that_says_what_it_takes(line: Line) -> None:
    """A wire shrinks to 1380 bytes: its router answers with ICMP, the kernel tells us, and we tell the server."""
    ends = ((line.router, line.topology.router_server_if), (line.server_namespace, line.topology.server_if))
    with line.connected() as connection:
        assert _passes(line, FULL)
        for namespace, device in ends:
            namespace.run(["ip", "link", "set", "dev", device, "mtu", "1380"])
        try:
            seconds = until(lambda: _passes(line, FULL), 40)
            until(lambda: _statistics(line)["reconnects_path_mtu"] == 1 and _statistics(line)["state"] == 2, 40)
            assert 1280 < _statistics(line)["inner_mtu"] < 1380
            assert _passes(line, FULL)
            whole = ["ping", "-c", "1", "-M", "do", "-s", str(FULL), line.server.inner4]
            refused = line.client.run(whole, check=False)
            assert "message too long" in refused.stdout.lower() + refused.stderr.lower()
            assert connection.process.poll() is None
        finally:
            for namespace, device in ends:
                namespace.run(["ip", "link", "set", "dev", device, "mtu", "1500"])
    note(Row("path shrinks, and says so", "the path takes packets of 1380 bytes now ... connected again",
             "the first large packet", seconds, None, True))  # fmt: skip


def test_a_path_that_swallows_what_is_too_large(line: Line) -> None:
    """Records above 1360 bytes vanish without a word, both ways."""
    with (
        Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=1) as relay,
        line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL),
    ):
        assert _passes(line, FULL)
        relay.set(largest=1360)
        began = time.monotonic()
        until(lambda: _passes(line, FULL) and _statistics(line)["reconnects_path_mtu"] == 1, 40)
        seconds = time.monotonic() - began
        until(lambda: _statistics(line)["state"] == 2, 40)
        assert _statistics(line)["black_holes"] == 1
        assert all(_passes(line, size) for size in (100, 600, 1100, 1250, 1300, FULL))
        assert _statistics(line)["dtls_lost"] == 0
    note(Row("path swallows large packets", "the path takes packets of ... bytes now ... connected again",
             "the first large packet", seconds, None, True))  # fmt: skip
