"""`qosctl flows [--json]`."""

from __future__ import annotations

import argparse
import time
from typing import TextIO

from qosctl.bpf.flow_info import Statistic
from qosctl.bpf.flows import Flow
from qosctl.supervisor.exits import Exit
from qosctl.supervisor.output import document, flow_json, write_json
from qosctl.supervisor.status import flows

_NANOSECONDS = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """List the tunnels; exits 3 where there is none."""
    present = flows()
    if arguments.json:
        write_json(document(flows=[flow_json(flow) for flow in present]), out)
    elif not present:
        print("no tunnel is connected (try: qosctl connect https://HOST -u USER)", file=out)
    for flow in [] if arguments.json else present:
        _print(flow, out)
    return Exit.FINE if present else Exit.NOT_ATTACHED


def _print(flow: Flow, out: TextIO) -> None:
    owner = flow.owner
    state = f"pid {owner.pid}" if owner.alive else f"pid {owner.pid} is dead (the next attach or connect clears it)"
    seconds = (time.time_ns() - owner.created) // _NANOSECONDS
    print(f"{owner.tunnel}: {owner.server}, {state}, up {seconds} s", file=out)
    print(f"    outer {_end(flow.key.local)} -> {_end(flow.key.remote)}", file=out)
    for statistic in Statistic:
        if flow.statistics[statistic]:
            print(f"    {statistic.label:<24}{flow.statistics[statistic]:>14,}", file=out)


def _end(end: tuple[str, int]) -> str:
    address, port = end
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
