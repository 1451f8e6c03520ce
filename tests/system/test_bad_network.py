"""A bad network on purpose: handshake and data survive 30 % loss, and everything else at rates a bad Wi-Fi has."""

import time

import pytest

from tests.lab import Qosctl
from tests.lab.relay import Relay
from tests.lab.testbed import TUNNEL, Line
from tests.system.flowing import Flowing, Row, note

ROUTER = "10.91.1.1"
OCSERV = "dpd = 5\n"
SECONDS = 1.5
FAIR = {"loss": 0.0, "duplicate": 0.0, "corrupt": 0.0, "reorder": 0.0, "delay": 0, "jitter": 0}
WEATHERS: dict[str, dict[str, float | int]] = {
    "loss of 30 %": {"loss": 0.3},
    "reordering by 100": {"reorder": 0.02, "reorder_by": 100},
    "all of it": {
        "loss": 0.05, "duplicate": 0.1, "corrupt": 0.05, "reorder": 0.02, "reorder_by": 80, "delay": 30, "jitter": 30
    },
}  # fmt: skip


def _statistics(qosctl: Qosctl) -> dict[str, int]:
    return qosctl.statistics()


@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS)
def test_handshake_and_data_survive(line: Line, weather: dict[str, float | int]) -> None:
    with Relay(line.router, ROUTER, line.server.port, line.topology.server4, seed=7) as relay:
        relay.set(**weather)
        began = time.monotonic()
        with (
            line.qosctl.connect(line.server, ROUTER, "-i", TUNNEL) as connection,
            Flowing(line.client, line.server_namespace) as flow,
        ):
            deadline = time.monotonic() + 30
            while _statistics(line.qosctl)["state"] != 2:
                assert time.monotonic() < deadline, "DTLS does not come up"
                time.sleep(0.1)
            seconds = time.monotonic() - began
            time.sleep(SECONDS)
            assert flow.tcp_works()
            if weather == WEATHERS["loss of 30 %"]:
                words = "nothing, or: packets go over TLS ... over DTLS again"
                note(Row("30 % loss both ways, handshakes too", words, "start, until DTLS carries", seconds, None, True))
            relay.set(**FAIR)
            flow.wait(time.monotonic())
            time.sleep(1.2)  # until the counts are shown
            statistics = _statistics(line.qosctl)
            assert connection.process.poll() is None
            assert sum(count for name, count in statistics.items() if name.startswith("reconnects_")) == 0
            if "duplicate" in weather:
                assert statistics["dropped_replayed"] > 0
            if "corrupt" in weather:
                assert statistics["dropped_forged"] + statistics["dropped_malformed"] > 0
            if "loss" in weather:
                assert statistics["records_lost"] > 0
