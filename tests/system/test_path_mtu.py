"""A path that takes less than it did: packets of every size go on arriving, whether the path says so or not."""

import time
from collections.abc import Callable

from tests.lab.relay import Relay
from tests.system.flowing import Row, note
from tests.system.line import TUNNEL, Line

ROUTER = "10.91.1.1"
FULL = 1400 - 28  # bytes of ping that make an inner packet of 1400
OCSERV = "dpd = 5\n"


def _until(true: Callable[[], bool], timeout: float = 40) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + timeout
        time.sleep(0.05)
    return time.monotonic() - began


def _passes(line: Line, size: int) -> bool:
    words = ["ping", "-c", "1", "-W", "1", "-s", str(size), line.server.inner4]
    return line.client.run(words, check=False).returncode == 0


def _mtu(line: Line) -> int:
    return int(line.client.run(["cat", f"/sys/class/net/{TUNNEL}/mtu"], check=False).stdout or 0)


def _statistics(line: Line) -> dict[str, int]:
    statistics: dict[str, int] = line.qosctl.read("flows")["flows"][0]["statistics"]
    return statistics


def test_a_path_that_says_what_it_takes(line: Line) -> None:
    """The router's next wire shrinks to 1300 bytes: it answers with ICMP, and the kernel tells us."""
    with line.connected() as connection:
        assert _passes(line, FULL)
        before = _statistics(line)["inner_mtu"]
        line.router.run(["ip", "link", "set", "dev", line.topology.router_server_if, "mtu", "1300"])
        try:
            began = time.monotonic()
            line.client.run(["ping", "-c", "20", "-i", "0.05", "-s", str(FULL), line.server.inner4], check=False)
            seconds = _until(lambda: _passes(line, FULL)) and time.monotonic() - began
            _until(lambda: _statistics(line)["inner_mtu"] < before)
            assert 1200 < _statistics(line)["inner_mtu"] < 1300
            refused = line.client.run(["ping", "-c", "1", "-M", "do", "-s", str(FULL), line.server.inner4], check=False)
            assert "message too long" in refused.stdout.lower() + refused.stderr.lower()
            assert connection.process.poll() is None
        finally:
            line.router.run(["ip", "link", "set", "dev", line.topology.router_server_if, "mtu", "1500"])
    note(Row("path shrinks, and says so", "nothing; the device's MTU falls", "the first large packet", seconds, None, True))


def test_a_path_that_swallows_what_is_too_large(line: Line) -> None:
    """Records above 1200 bytes vanish without a word, both ways."""
    with (
        Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=1) as relay,
        line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL),
    ):
        assert _passes(line, FULL)
        relay.set(largest=1200)
        began = time.monotonic()
        _until(lambda: _passes(line, FULL))
        seconds = time.monotonic() - began
        _until(lambda: _statistics(line)["black_holes"] == 1 or _statistics(line)["packets_over_tls"] > 0)
        assert all(_passes(line, size) for size in (100, 600, 1100, 1250, FULL))
        assert _statistics(line)["dtls_lost"] == 0
    note(Row("path swallows large packets", "nothing; large ones go over TLS, or in parts", "the first large packet",
             seconds, None, True))  # fmt: skip
