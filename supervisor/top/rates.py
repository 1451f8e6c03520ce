"""From two looks at the counters to rates: pure.

A device or tunnel that was not there the last time, and a counter that began anew, has no rate yet: 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page.statistics import DROPPED, Statistic, cases_of
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Outcome
from qosctl.bpf.read_count import ReadCount
from qosctl.supervisor.devices.follow import Followed
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status

_BITS = 8


@dataclass(frozen=True)
class Sample:
    """What was so at `at` (seconds of a clock that never goes back)."""

    at: float
    status: Status


@dataclass(frozen=True)
class Rate:
    """Packets and bits a second; of a device, bits on the wire; of a tunnel, bits of inner packets."""

    packets: float
    bits: float


@dataclass(frozen=True)
class DeviceRates:
    """One device: traffic by outer class, classes that were ever seen, and packets a second by outcome."""

    name: str
    index: int
    state: DeviceState
    hook: str | None
    ahead: int
    outer: Mapping[Dscp, Rate]
    outcomes: Mapping[Outcome, float]


@dataclass(frozen=True)
class TunnelRates:
    """One tunnel, as its client counts. `dropped` and `replays` (records the server probably dropped) are a second."""

    device: str
    server: str
    alive: bool
    sent: Rate
    received: Rate
    dropped: float
    replays: float
    round_trip_us: int
    backlog_records: int | None
    """None while it is unknown: over TLS, and while nothing is measured. So `backlog_ms`."""
    backlog_ms: int | None
    numbering_replay_safe: bool


@dataclass(frozen=True)
class FollowedRates:
    """Tunnels of others, by what is followed: each count a second."""

    pattern: str
    counts: Mapping[ReadCount, float]


@dataclass(frozen=True)
class Rates:
    """All of one network namespace over `seconds`."""

    seconds: float
    passtos: bool
    policy_is_default: bool
    devices: Sequence[DeviceRates]
    tunnels: Sequence[TunnelRates]
    followed: Sequence[FollowedRates]


def rates(before: Sample, now: Sample) -> Rates:
    """Return what went on between the two."""
    seconds = max(now.at - before.at, 1e-9)
    devices = {device.index: device for device in before.status.devices}
    flows = {(flow.key, flow.owner.created): flow for flow in before.status.flows}
    patterns = {followed.pattern: followed for followed in before.status.following.patterns}
    return Rates(
        seconds=seconds,
        passtos=now.status.passtos,
        policy_is_default=now.status.policy == Policy.identity(),
        devices=tuple(_device(devices.get(device.index), device, seconds) for device in now.status.devices),
        followed=tuple(_followed(patterns.get(each.pattern), each, seconds) for each in now.status.following.patterns),
        tunnels=tuple(_tunnel(flows.get((flow.key, flow.owner.created)), flow, seconds) for flow in now.status.flows),
    )


def _device(before: DeviceStatus | None, now: DeviceStatus, seconds: float) -> DeviceRates:
    old = (before or now).counters
    return DeviceRates(
        name=now.name,
        index=now.index,
        state=now.state,
        hook=now.hook.value if now.hook is not None else None,
        ahead=len(now.ahead),
        outer={
            dscp: Rate(
                _grown(old.outer[dscp].packets, traffic.packets) / seconds,
                _grown(old.outer[dscp].bytes, traffic.bytes) * _BITS / seconds,
            )
            for dscp, traffic in now.counters.outer.items()
            if traffic.packets
        },
        outcomes={outcome: _grown(old.outcomes[outcome], n) / seconds for outcome, n in now.counters.outcomes.items()},
    )


def _tunnel(before: Flow | None, now: Flow, seconds: float) -> TunnelRates:
    old, new = (before or now).statistics, now.statistics

    def a_second(*statistics: Statistic) -> float:
        return sum(_grown(old[statistic], new[statistic]) for statistic in statistics) / seconds

    measured = any(use.queued is not None for use in now.classes.values())
    return TunnelRates(
        device=now.owner.tunnel,
        server=now.owner.server,
        alive=now.alive,
        sent=Rate(a_second(Statistic.PACKETS_SENT), a_second(Statistic.BYTES_SENT) * _BITS),
        received=Rate(a_second(Statistic.PACKETS_RECEIVED), a_second(Statistic.BYTES_RECEIVED) * _BITS),
        dropped=a_second(*cases_of(DROPPED).values()),
        replays=a_second(Statistic.REPLAY_LOSSES_SUSPECTED),
        round_trip_us=new[Statistic.DPD_ROUND_TRIP_US],
        backlog_records=new[Statistic.BACKLOG_RECORDS] if measured else None,
        backlog_ms=new[Statistic.BACKLOG_MS] if measured else None,
        numbering_replay_safe=bool(new[Statistic.NUMBERING_REPLAY_SAFE]),
    )


def _followed(before: Followed | None, now: Followed, seconds: float) -> FollowedRates:
    old = (before or now).reads
    return FollowedRates(now.pattern, {count: _grown(old[count], now.reads[count]) / seconds for count in ReadCount})


def _grown(before: int, now: int) -> int:
    return max(0, now - before)
