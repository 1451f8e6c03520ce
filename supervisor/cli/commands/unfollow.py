"""`qosctl unfollow DEV...` and `qosctl unfollow --all`."""

from __future__ import annotations

import argparse
from typing import TextIO

from qosctl.bpf.errors import UsageError
from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.follow import unfollow, unfollow_all
from qosctl.supervisor.output.exit_codes import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take names and patterns, or --all."""
    parser.add_argument("device", nargs="*", metavar="DEV|PATTERN", help="a name or pattern, as it was followed")
    parser.add_argument("--all", action="store_true", help="everything that is followed in this network namespace")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Follow no more, and say what."""
    if arguments.all == bool(arguments.device):
        raise UsageError("name the devices, or say --all", "qosctl unfollow tun0")
    if arguments.all:
        given_up = unfollow_all()
    else:
        given_up = arguments.device
        unfollow(given_up)
    for pattern in given_up:
        print(one_line(f"{pattern}: not followed any more"), file=out)
    return Exit.FINE
