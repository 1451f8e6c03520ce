"""Whether marking works: from the program to the packet, in the order in which a mark depends on them.

Everything is asked of the kernel. Counters are read twice, a moment apart, and compared with the device's own count of
packets: if the device sends and our program sees nothing, a program before ours ends the chain.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qosctl.bpf.abi import REPLAY_WINDOW
from qosctl.bpf.dscp import DF, EF, Dscp
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Fate, outcomes_of
from qosctl.supervisor.devices.carriers import Carrier
from qosctl.supervisor.devices.follow import Following
from qosctl.supervisor.devices.replay_windows import window_risk
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status, status
from qosctl.supervisor.doctor import host_snapshot
from qosctl.supervisor.doctor.finding import Finding, failed, passed, warned

MOMENT = 0.5  # seconds between the two readings
_ENOUGH = 5  # packets of a device that must not go by unseen


@dataclass(frozen=True)
class Moment:
    """What was so, and how many packets each device (by name) had sent."""

    status: Status
    sent: dict[str, int]


@dataclass(frozen=True)
class Observation:
    """Two moments. `watched` are the devices that were asked about, or that matter."""

    before: Moment
    after: Moment
    watched: Sequence[str]


def observe(devices: Sequence[str]) -> Observation:
    """Look twice at the devices, or, where none is named, at those attached and those that tunnels leave by."""
    before = _moment()
    time.sleep(MOMENT)
    after = _moment()
    return Observation(before, after, tuple(devices) or _that_matter(after.status))


def check(seen: Observation) -> Iterator[Finding]:
    """Yield the findings in the order in which a mark depends on them."""
    now = seen.after.status
    yield from _attached(seen, now)
    yield from _ways_out(now)
    yield _switch(now)
    yield from _policy(now.policy)
    yield from _flows(now)
    yield from _followed(now.following)
    yield from _counters(seen)


def _moment() -> Moment:
    return Moment(status(), host_snapshot.packets_sent())


def _that_matter(now: Status) -> tuple[str, ...]:
    names = [device.name for device in now.devices]
    names += [name for flow in now.flows if (name := host_snapshot.way_out(flow.key.remote[0])) is not None]
    return tuple(dict.fromkeys(names)) or tuple(filter(None, [host_snapshot.default_device()]))


def _attached(seen: Observation, now: Status) -> Iterator[Finding]:
    known = {device.name: device for device in now.devices}
    for name in dict.fromkeys([*seen.watched, *known]):
        device = known.get(name)
        if device is None and name not in seen.after.sent:
            yield failed("attached", f"{name}: no such device", "nothing can be marked on it", "ip link")
        elif device is None:
            yield failed(
                "attached", f"{name}: no program of ours stands at its egress", "its packets leave as they are",
                f"qosctl attach {name}",
            )  # fmt: skip
        else:
            yield _device(device)
    if not seen.watched and not known:
        yield failed("attached", "no device is attached", "all packets leave as they are", "qosctl attach IFACE")


def _device(device: DeviceStatus) -> Finding:
    if device.state is DeviceState.GONE:
        return warned(
            "attached", f"{device.name}: the device went away after attach",
            "what comes back under that name is another device, without the program", "qosctl detach --all",
        )  # fmt: skip
    if device.state is DeviceState.DETACHED or device.hook is None or device.program is None:
        return failed(
            "attached", f"{device.name}: the program was attached and is not any more", "its packets leave as they are",
            f"qosctl attach {device.name}",
        )  # fmt: skip
    return passed("attached", f"{device.name}: program {device.program.id} at {device.hook.value}, says the kernel")


def _ways_out(now: Status) -> Iterator[Finding]:
    attached = {device.name for device in now.devices if device.state is DeviceState.ATTACHED}
    for flow in now.flows:
        name = host_snapshot.way_out(flow.key.remote[0])
        if flow.alive and name is not None and name not in attached:
            yield failed(
                "way-out", f"{flow.owner.tunnel}: packets to {flow.key.remote[0]} leave by {name}, which is not attached",
                "this tunnel is not marked", f"qosctl attach {name}",
            )  # fmt: skip


def _switch(now: Status) -> Finding:
    if not now.passtos:
        return failed("switch", "passtos is off", "no packet is marked; this is the default", "qosctl passtos on")
    return passed("switch", "passtos is on")


def _policy(policy: Policy) -> Iterator[Finding]:
    marked = [dscp for dscp, rule in policy.items() if rule.outer is not None and rule.outer is not DF]
    if not marked:
        yield failed("policy", "the policy marks no class", "all records leave as they are", "qosctl policy reset")
    elif policy[EF].outer is not EF:
        becomes = policy[EF].outer
        yield warned(
            "policy", f"the policy {'leaves EF alone' if becomes is None else f'makes EF {becomes}'}",
            "calls inside the tunnel do not leave as EF", "qosctl policy set EF=EF",
        )  # fmt: skip
    else:
        yield passed("policy", f"the policy marks {len(marked)} classes, EF as EF")


def _flows(now: Status) -> Iterator[Finding]:
    alive = [flow for flow in now.flows if flow.alive]
    for flow in now.flows:
        if not flow.alive:
            yield warned(
                "flows", f"{flow.owner.tunnel}: the client, pid {flow.owner.pid}, is dead",
                "its entry marks nothing; the next attach or connect clears it", "qosctl connect https://HOST -u USER",
            )  # fmt: skip
    if not alive and not now.following.patterns:
        yield failed(
            "flows", "no tunnel of ours is connected",
            "only records of `qosctl connect` are marked, and of what is followed (qosctl follow), not those of others",
            "qosctl connect https://HOST -u USER",
        )  # fmt: skip
    elif alive:
        yield passed("flows", f"{len(alive)} tunnels: " + ", ".join(flow.owner.tunnel for flow in alive))


def _followed(following: Following) -> Iterator[Finding]:
    patterns = " ".join(each.pattern for each in following.patterns)
    if patterns and not following.running:
        yield failed(
            "followed", f"our program is not where it belongs, though {patterns} shall be followed",
            "tunnels of other programs, or some of them, are not marked", f"qosctl follow {patterns}",
        )  # fmt: skip
    elif patterns:
        names = ", ".join(following.tunnels)
        yield passed("followed", f"tunnels of other programs: {names}" if names else f"{patterns}: no such device now")
    for device in (device for each in following.patterns for device in each.devices if device.refusal):
        fix = device.hint or "qosctl status"
        yield warned("followed", f"{device.name} is not followed, though its name fits", device.refusal, fix)
    yield from _windows(following)
    for carrier in following.carriers:
        yield from _carrier(carrier)


def _carrier(carrier: Carrier) -> Iterator[Finding]:
    if carrier.elsewhere:
        yield warned(
            "followed", f"{carrier.name} was made in another network namespace, where its packets leave",
            "they are not marked here", "make it in this namespace: ip link add NAME type wireguard",
        )  # fmt: skip
    for foreign in carrier.ahead:
        yield warned(
            "followed", f"{carrier.name}: {foreign.description} runs before ours",
            "if it ends the chain, the class of what is inside is not known", f"bpftool net show dev {carrier.name}",
        )  # fmt: skip


def _windows(following: Following) -> Iterator[Finding]:
    for risk in filter(None, map(window_risk, following.patterns)):
        if not risk.overrun:
            yield passed("window", str(risk))
            continue
        yield warned(
            "window",
            f"{risk.names}: {risk.overrun:,} packets left soon after one of another class, {REPLAY_WINDOW} or more behind",
            f"where they overtake it, a receiver with a window of {REPLAY_WINDOW} drops it; cure: {risk.cure}",
            "qosctl policy fold 2",
        )  # fmt: skip


def _counters(seen: Observation) -> Iterator[Finding]:
    before = {device.name: device for device in seen.before.status.devices}
    for device in seen.after.status.devices:
        if device.state is not DeviceState.ATTACHED or device.name not in before:
            continue
        moved = _sum(device.counters) - _sum(before[device.name].counters)
        sent = seen.after.sent.get(device.name, 0) - seen.before.sent.get(device.name, 0)
        if sent >= _ENOUGH and not moved:
            ahead = "; ".join(foreign.description for foreign in device.ahead) or "somebody"
            yield failed(
                "seen", f"{device.name} sent {sent} packets and our program saw none of them",
                f"{ahead} runs before ours and ends the chain", f"bpftool net show dev {device.name}",
            )  # fmt: skip
        yield _outcome(device, seen.after.status)


def _outcome(device: DeviceStatus, now: Status) -> Finding:
    outcomes = device.counters.outcomes
    done = sum(outcomes[outcome] for outcome in outcomes_of(Fate.MARKED))
    missed = max(outcomes_of(Fate.MISSED), key=outcomes.__getitem__)
    classes = [dscp for dscp, traffic in device.counters.outer.items() if traffic.packets]
    if outcomes[missed] > done:
        return warned(
            "counters", f"{device.name}: most records ended as {missed.label}, {outcomes[missed]:,} of them",
            "they left unmarked because their mark was not found or not safe to use", "qosctl flows; then reconnect",
        )  # fmt: skip
    if not done:
        return passed(
            "counters", f"{device.name}: no record has been marked yet", "see what fails above, or wait for traffic"
        )
    if classes == [DF] and now.passtos:
        return warned(
            "counters", f"{device.name}: {done:,} records, and all of them DF inside",
            "the applications do not mark their packets, so there is nothing to copy", "tcpdump -ni TUNNEL -v ip or ip6",
        )  # fmt: skip
    return passed("counters", f"{device.name}: {done:,} records carried as {_names(classes)}")


def _names(classes: Sequence[Dscp]) -> str:
    return ", ".join(map(str, classes))


def _sum(counters: DeviceCounters) -> int:
    return sum(counters.outcomes.values())
