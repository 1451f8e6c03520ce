"""`qosctl metrics [--listen 127.0.0.1:PORT] [--host-name NAME]...`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import TextIO

from qosctl.metrics.hosts import parse_names
from qosctl.metrics.listen import DEFAULT, parse_listen
from qosctl.metrics.readings import require_privilege
from qosctl.metrics.server import Endpoint
from qosctl.supervisor.exporter import only_look, registry
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take --listen and --host-name."""
    parser.add_argument(
        "--listen",
        default=str(DEFAULT),
        metavar="ADDRESS:PORT",
        help="where to serve /metrics: a numeric address and a port, or a port alone for 127.0.0.1 (default: %(default)s)",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests for this name, and not for addresses and localhost alone (a web page could read the metrics"
        " through a name of its own); may be repeated",
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Serve until SIGINT or SIGTERM; the first line on stdout says where."""
    listen = dataclasses.replace(parse_listen(arguments.listen), names=parse_names(arguments.host_name))
    require_privilege()
    only_look()
    with Endpoint(registry(Log(sys.stderr, os.environ).say), listen) as endpoint:
        print(f"serving {endpoint.url}", file=out, flush=True)
        endpoint.run()
    return Exit.FINE
