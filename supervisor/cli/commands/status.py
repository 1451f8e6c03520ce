"""`qosctl status [--json]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TextIO

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.printable import one_line
from qosctl.bpf.read_count import ReadCount
from qosctl.supervisor.cli.summary import glance
from qosctl.supervisor.devices.carriers import Carrier
from qosctl.supervisor.devices.follow import Followed
from qosctl.supervisor.devices.hooks import Foreign
from qosctl.supervisor.devices.replay_windows import window_risk
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status, status
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import Json, counters_json, document, write_json
from qosctl.supervisor.process.locked_file import TABLE_FILES, any_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Report; exits 3 where nothing is attached."""
    now = status()
    if arguments.json:
        write_json(_json(now), out)
    else:
        _print(now, out)
        _print_blocked(out)
    return Exit.FINE if any(d.state is DeviceState.ATTACHED for d in now.devices) else Exit.NOT_ATTACHED


def _print_blocked(out: TextIO) -> None:
    if not any_file(TABLE_FILES):
        return
    from qosctl.supervisor.kill_switch.blocked import blocked  # noqa: PLC0415 - pyroute2 costs a tenth of a second

    with suppress(OSError):  # the kernel does not say: then qosctl unblock says why
        for each in blocked():
            print(one_line(f"blocked: {each} (try: qosctl unblock, or connect again)"), file=out)


def _json(now: Status) -> Json:
    return document(
        passtos=now.passtos,
        policy_is_default=now.policy == Policy.identity(),
        devices=[_device_json(device) for device in now.devices],
        flows=len(now.flows),
        following={
            "running": now.following.running,
            "patterns": [_followed_json(followed) for followed in now.following.patterns],
            "carriers": [_carrier_json(carrier) for carrier in now.following.carriers],
        },
    )


def _followed_json(followed: Followed) -> Json:
    return {
        "pattern": followed.pattern,
        "devices": [
            {"device": device.name, "kind": device.kind, "refusal": device.refusal or None} for device in followed.devices
        ],
        "reads": asdict(followed.reads),
    }


def _carrier_json(carrier: Carrier) -> Json:
    return {
        "device": carrier.name,
        "ifindex": carrier.index,
        "port": carrier.port,
        "elsewhere": carrier.elsewhere,
        "packets": carrier.packets,
        "ahead": _ahead_json(carrier.ahead),
    }


def _ahead_json(ahead: Sequence[Foreign]) -> list[Json]:
    return [{"hook": foreign.where.value, "description": foreign.description} for foreign in ahead]


def _device_json(device: DeviceStatus) -> Json:
    program = device.program
    return {
        "device": device.name,
        "ifindex": device.index,
        "state": device.state.value,
        "hook": device.hook.value if device.hook else None,
        "program": {"id": program.id, "tag": program.tag} if program else None,
        "ahead": _ahead_json(device.ahead),
        **counters_json(device.counters),
    }


def _print(now: Status, out: TextIO) -> None:
    if not now.devices:
        print("nothing is attached (try: qosctl attach IFACE)", file=out)
        for followed in now.following.patterns:
            _print_followed(followed, now.following.carriers, out)
        return
    print(one_line(glance(now)), file=out)
    alive = sum(flow.alive for flow in now.flows)
    policy = "default" if now.policy == Policy.identity() else "custom"
    print(f"passtos {'on' if now.passtos else 'off'}   policy {policy}   flows {alive}", file=out)
    for device in now.devices:
        print(file=out)
        _print_device(device, out)
    for followed in now.following.patterns:
        print(file=out)
        _print_followed(followed, now.following.carriers, out)


def _print_followed(followed: Followed, carriers: Sequence[Carrier], out: TextIO) -> None:
    names = [device.name for device in followed.devices if not device.refusal]
    print(one_line(f"following {followed.pattern}: {', '.join(names) or 'no such device now'}"), file=out)
    for device in followed.devices:
        if device.refusal:
            print(one_line(f"    {device.name}: not followed: {device.refusal}"), file=out)
    known = {carrier.name: carrier for carrier in carriers}
    for device in (each for each in followed.devices if each.way is FollowWay.HASH):
        _print_carrier(device.name, known.get(device.name), followed.pattern, out)
    reads_tuns = not followed.devices or any(device.way is FollowWay.READS for device in followed.devices)
    for count in ReadCount:
        if followed.reads[count] or (count is ReadCount.PACKETS and reads_tuns):
            print(f"    {count.word:<18}{followed.reads[count]:>14,}", file=out)
    risk = window_risk(followed)
    if risk is not None:
        print(one_line(f"    {risk}"), file=out)


def _print_carrier(name: str, carrier: Carrier | None, pattern: str, out: TextIO) -> None:
    if carrier is None:
        said = f"not marked: it has come since (try: qosctl follow '{pattern}')"
    elif carrier.elsewhere:
        said = "was made in another network namespace, and its packets leave there: not marked here"
    elif carrier.port is None:
        said = "no packet has gone into it while passtos was on"
    else:
        said = f"sends from port {carrier.port}, {carrier.packets:,} packets have gone into it"
    print(one_line(f"    {name}: {said}"), file=out)
    if carrier is not None:
        _print_ahead(carrier.ahead, out)


def _print_ahead(ahead: Sequence[Foreign], out: TextIO) -> None:
    for foreign in ahead:
        said = f"runs before us: {foreign.description}, {foreign.where.value}; if it ends the chain we see nothing"
        print(f"    {one_line(said)}", file=out)


def _print_device(device: DeviceStatus, out: TextIO) -> None:
    if device.hook is not None and device.program is not None:
        where = f"attached ({device.hook.value}, program {device.program.id}, tag {device.program.tag})"
    else:
        where = {DeviceState.GONE: "device is gone (try: qosctl detach --all)"}.get(
            device.state, f"not attached any more (try: qosctl attach {device.name})"
        )
    print(one_line(f"{device.name}: {where}"), file=out)
    _print_ahead(device.ahead, out)
    outcomes = {o.label: n for o, n in device.counters.outcomes.items() if n}
    for label, count in sorted(outcomes.items(), key=lambda item: -item[1]):
        print(f"    {label:<18}{count:>14,}", file=out)
    classes = {dscp: t for dscp, t in device.counters.outer.items() if t.packets}
    if classes:
        print(f"    {'outer DSCP':<12}{'packets':>20}{'bytes':>18}", file=out)
    for dscp, traffic in classes.items():
        print(f"    {dscp.name:<12}{traffic.packets:>20,}{traffic.bytes:>18,}", file=out)
