"""`qosctl follow DEV...`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TextIO

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.maps.following import ANY_REST
from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.follow import Followed, follow, following
from qosctl.supervisor.devices.replay_windows import window_risk
from qosctl.supervisor.devices.status import status
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take names and patterns."""
    parser.add_argument(
        "device",
        nargs="+",
        metavar="DEV|PATTERN",
        help="the tunnel's device, or how the names of such devices begin, those to come included: 'vpns*'",
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Follow and say what came of it."""
    log = Log(sys.stderr, os.environ)
    new = follow(arguments.device)
    now = {followed.pattern: followed for followed in following().patterns}
    for pattern, is_new in zip(arguments.device, new, strict=True):
        print(one_line(f"{pattern}: {'followed' if is_new else 'followed already'}{_by_now(now.get(pattern))}"), file=out)
        if pattern not in now:  # somebody has given it up already
            continue
        for device in now[pattern].devices:
            if device.refusal:
                hint = f" (try: {device.hint})" if device.hint else ""
                log.warning(f"{device.name}: not followed: {device.refusal}{hint}")
        if (risk := window_risk(now[pattern])) is not None:
            log.notice(str(risk))
    if any(pattern.endswith(ANY_REST) and _may_be_wireguard(now.get(pattern)) for pattern in arguments.device):
        print(
            "WireGuard devices to come are followed while `qosctl supervise` runs, or once this command is repeated",
            file=out,
        )
    present = status()
    if not present.devices:
        print("nothing is attached: nothing is marked until `qosctl attach IFACE`, where the outer packets leave", file=out)
    elif not present.passtos:
        print("passtos is off: nothing is marked until `qosctl passtos on`", file=out)
    return Exit.FINE


def _may_be_wireguard(followed: Followed | None) -> bool:
    """Of devices that come later, TUNs alone are followed with no process of ours about."""
    return followed is not None and (
        not followed.devices or any(device.way is FollowWay.HASH for device in followed.devices)
    )


def _by_now(followed: Followed | None) -> str:
    if followed is None or not followed.pattern.endswith(ANY_REST):
        return ""
    usable = [device.name for device in followed.devices if not device.refusal]
    return f", now {', '.join(usable)}" if usable else ", no such device yet"
