"""`qosctl passtos [on|off]`."""

from __future__ import annotations

import argparse
from typing import TextIO

from qosctl.supervisor.devices.passtos import passtos, set_passtos
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import document, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the wanted state, or nothing to ask."""
    parser.add_argument("state", nargs="?", choices=["on", "off"], help="switch copying on or off; without it, ask")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Switch, or say how it stands."""
    if arguments.state is not None:
        set_passtos(arguments.state == "on")
    on = passtos() if arguments.state is None else arguments.state == "on"
    if arguments.json:
        write_json(document(passtos=on), out)
    elif arguments.state is None:
        print("on" if on else "off", file=out)
    return Exit.FINE
