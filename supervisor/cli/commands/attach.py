"""`qosctl attach IFACE...`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import passtos
from qosctl.supervisor.devices.status import flows
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the devices and the hook."""
    parser.add_argument("iface", nargs="+", metavar="IFACE", help="device whose outgoing packets are marked")
    parser.add_argument(
        "--hook",
        choices=[kind.value for kind in HookKind],
        default=HookKind.AUTO.value,
        help="tcx: a TCX link (Linux 6.6); clsact: a tc filter; auto: tcx where the kernel has it (default)",
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Attach and say what came of it."""
    sentences = {"attached": "attached", "replaced": "program replaced", "already": "attached already, up to date"}
    for result in attach(arguments.iface, HookKind(arguments.hook)):
        print(one_line(f"{result.device}: {sentences[result.change]} ({result.hook.value})"), file=out)
    for name in _tunnels_among(arguments.iface):
        Log(sys.stderr, os.environ).warning(
            f"{name}: this is a tunnel; what it sends leaves by another device, and is marked there"
            " (try: ip route get SERVER mark 0x20a4)"
        )
    if not passtos():
        print("passtos is off: nothing is marked until `qosctl passtos on`", file=out)
    return Exit.FINE


def _tunnels_among(names: Iterable[str]) -> set[str]:
    """Those that are tunnels of ours. It may be meant, for a tunnel in a tunnel, but is what one gets wrong first."""
    return {flow.owner.tunnel for flow in flows()} & set(names)
