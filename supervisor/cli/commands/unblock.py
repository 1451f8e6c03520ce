"""`qosctl unblock`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TextIO

from qosctl.bpf.errors import NoPermissionError, RefusedError
from qosctl.bpf.printable import one_line
from qosctl.supervisor.kill_switch.blocked import unblock
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log
from qosctl.supervisor.tunnel.vpnc_script import undo_for_orphans


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Take none."""


def run(_arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Undo routes and DNS of tunnels that died, and lift what they have left blocked; a line for each."""
    undo_for_orphans(Log(sys.stderr, os.environ).warning)
    try:
        lifted = unblock()
    except PermissionError as error:
        raise NoPermissionError("lifting what is blocked needs CAP_NET_ADMIN", "run it as root") from error
    except OSError as error:
        raise RefusedError(f"the kernel does not lift what is blocked: {error.strerror}", "ip rule") from error
    for each in lifted:
        print(one_line(f"let out again: {each}"), file=out)
    if not lifted:
        print("nothing is blocked", file=out)
    return Exit.FINE
