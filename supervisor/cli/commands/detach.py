"""`qosctl detach IFACE...` and `qosctl detach --all`."""

from __future__ import annotations

import argparse
from typing import TextIO

from qosctl.bpf.errors import UsageError
from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.attach import detach, detach_all
from qosctl.supervisor.output.exit_codes import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the devices, or --all."""
    parser.add_argument("iface", nargs="*", metavar="IFACE", help="device to take the program off")
    parser.add_argument(
        "--all", action="store_true", help="all devices of this network namespace; switches off and forgets the policy too"
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Detach and say from what."""
    if arguments.all == bool(arguments.iface):
        raise UsageError("name the devices, or say --all", "qosctl detach eth0")
    for result in detach_all() if arguments.all else detach(arguments.iface):
        print(one_line(f"{result.device}: {'device was gone, forgotten' if result.gone else 'detached'}"), file=out)
    return Exit.FINE
