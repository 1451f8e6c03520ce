"""Loads with figures: a call, bulk over UDP, bulk over TCP.

Each is started at once and is a context manager; `result()` waits for its end, so several run side by side:

    with bulk_udp(client, server, inner, 40, seconds=5) as bulk, call(client, server, inner, seconds=5) as voice:
        print(voice.result().p99_ms, bulk.result().mbit)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from tests.lab.namespace import LabError, Namespace, end

_PROGRAM = Path(__file__).with_name("flow_program.py")
_STARTING_SECONDS = 5.0
EF_TOS = 46 << 2
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CallResult:
    """Round trips of a call in milliseconds, in order of arrival. What did not come back in time is lost."""

    sent: int
    round_trips_ms: tuple[float, ...]

    @property
    def lost(self) -> int:
        """Datagrams without an answer."""
        return self.sent - len(self.round_trips_ms)

    @property
    def lost_share(self) -> float:
        """Lost as a share of sent, 0..1."""
        return self.lost / self.sent

    @property
    def p50_ms(self) -> float:
        """The median round trip; infinite if nothing came back."""
        return self.percentile(50)

    @property
    def p99_ms(self) -> float:
        """The round trip that 99 in 100 stay under; infinite if nothing came back."""
        return self.percentile(99)

    def percentile(self, percent: float) -> float:
        """Return the nearest-rank percentile."""
        ordered = sorted(self.round_trips_ms)
        if not ordered:
            return float("inf")
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class BulkResult:
    """What arrived at the far end. `packets` and `retransmits` are 0 where the kind of load does not know them."""

    mbit: float
    sent_mbit: float
    packets_sent: int = 0
    packets: int = 0
    retransmits: int = 0


class Load(Generic[_Result]):
    """A load under way. Leaving the block ends it, finished or not."""

    def __init__(
        self,
        far: subprocess.Popen[str],
        near: subprocess.Popen[str],
        seconds: float,
        finish: Callable[[Load[_Result]], _Result],
    ) -> None:
        self._far = far
        self._near = near
        self._seconds = seconds
        self._finish = finish
        self._done: _Result | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._near)
        end(self._far)

    def result(self) -> _Result:
        """Wait for the end and return the figures; LabError when an end failed."""
        if self._done is None:
            self._done = self._finish(self)
        return self._done

    def near_output(self) -> dict[str, Any]:
        """Wait for the sending end and return what it printed."""
        return self._output(self._near)

    def far_output(self) -> dict[str, Any]:
        """Wait for the receiving end and return what it printed."""
        return self._output(self._far)

    def _output(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            text, errors = process.communicate(timeout=self._seconds + 30)
        except subprocess.TimeoutExpired:
            raise LabError(f"{process.args!r} did not end") from None
        if process.returncode != 0:
            raise LabError(f"{process.args!r}: exit {process.returncode}: {errors.strip() or text.strip()}")
        parsed: dict[str, Any] = json.loads(text)
        return parsed


def call(
    client: Namespace,
    server: Namespace,
    address: str,
    *,
    seconds: float,
    size: int = 160,
    interval: float = 0.02,
    tos: int = EF_TOS,
    port: int = 4000,
) -> Load[CallResult]:
    """Call `address` (the server's, as the client reaches it): `size` bytes every `interval` s, echoed there."""
    far = _listen(server, "echo", str(port), str(seconds + _STARTING_SECONDS))
    near = _start(client, "call", address, str(port), str(seconds), str(size), str(interval), str(tos))

    def finish(load: Load[CallResult]) -> CallResult:
        answer = load.near_output()
        return CallResult(answer["sent"], tuple(answer["round_trips_ms"]))

    return Load(far, near, seconds, finish)


def bulk_udp(
    client: Namespace,
    server: Namespace,
    address: str,
    mbit: float,
    *,
    seconds: float,
    size: int = 1200,
    tos: int = 0,
    port: int = 4001,
) -> Load[BulkResult]:
    """Offer `mbit` Mbit/s of payload in datagrams of `size` bytes; measure what arrives."""
    far = _listen(server, "sink", str(port), str(seconds))
    near = _start(client, "send", address, str(port), str(seconds), str(size), str(mbit), str(tos))
    return _datagrams(far, near, seconds)


def bulk_bursts(
    client: Namespace,
    server: Namespace,
    address: str,
    kilobytes: float,
    period: float,
    *,
    seconds: float,
    size: int = 1200,
    tos: int = 0,
    port: int = 4001,
) -> Load[BulkResult]:
    """Offer so many kilobytes of payload at once, in datagrams of `size` bytes, every `period` seconds on average."""
    far = _listen(server, "sink", str(port), str(seconds))
    count = round(kilobytes * 1000 / size)
    near = _start(client, "burst", address, str(port), str(seconds), str(size), str(count), str(period), str(tos))
    return _datagrams(far, near, seconds)


def _datagrams(far: subprocess.Popen[str], near: subprocess.Popen[str], seconds: float) -> Load[BulkResult]:
    def finish(load: Load[BulkResult]) -> BulkResult:
        sent, received = load.near_output(), load.far_output()
        return BulkResult(
            mbit=_mbit(received["bytes"], received["seconds"]),
            sent_mbit=_mbit(sent["bytes"], sent["seconds"]),
            packets_sent=sent["packets"],
            packets=received["packets"],
        )

    return Load(far, near, seconds, finish)


def bulk_tcp(
    client: Namespace,
    server: Namespace,
    address: str,
    *,
    seconds: float,
    flows: int = 1,
    tos: int = 0,
    port: int = 4002,
) -> Load[BulkResult]:
    """Run iperf3 with that many TCP flows at once."""
    far = server.popen(["iperf3", "-s", "-1", "-J", "-p", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not server.wait_for_listener(port, far):
        raise LabError("iperf3 did not start")
    near = client.popen(
        ["iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-P", str(flows), "-S", str(tos), "-J"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def finish(load: Load[BulkResult]) -> BulkResult:
        total = load.near_output()["end"]
        return BulkResult(
            mbit=total["sum_received"]["bits_per_second"] / 1e6,
            sent_mbit=total["sum_sent"]["bits_per_second"] / 1e6,
            retransmits=total["sum_sent"]["retransmits"],
        )

    return Load(far, near, seconds, finish)


def _start(namespace: Namespace, *words: str) -> subprocess.Popen[str]:
    return namespace.popen([sys.executable, "-I", str(_PROGRAM), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _listen(namespace: Namespace, *words: str) -> subprocess.Popen[str]:
    process = _start(namespace, *words)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        end(process)
        raise LabError(f"{' '.join(words)}: did not start")
    return process


def _mbit(count: int, seconds: float) -> float:
    return count * 8 / seconds / 1e6 if seconds > 0 else 0.0
