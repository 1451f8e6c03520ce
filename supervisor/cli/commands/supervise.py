"""`qosctl supervise [--config FILE] [--check]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from qosctl.bpf.errors import BusyError, RefusedError, kernel_errors
from qosctl.bpf.kernel import bpffs, netns
from qosctl.bpf.kernel.descriptors import opened
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.log import Log
from qosctl.supervisor.supervise.config import DEFAULT_PATH, Config, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the configuration, and --check."""
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="the configuration (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only say whether the configuration makes sense")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Check, or work until SIGINT or SIGTERM. SIGHUP reads the configuration again. What is attached stays attached."""
    config = load(arguments.config)
    if arguments.check:
        print(f"{arguments.config}: fine: {_what(config)}", file=out)
        return Exit.FINE
    from qosctl.metrics.readings import require_privilege  # noqa: PLC0415 - --check needs none of it
    from qosctl.supervisor.supervise.daemon import Supervisor  # noqa: PLC0415
    from qosctl.supervisor.supervise.metrics_process import MetricsProcess  # noqa: PLC0415
    from qosctl.supervisor.supervise.notify import Notifier  # noqa: PLC0415

    require_privilege()
    log = Log(sys.stderr, os.environ)
    with _only_one(), MetricsProcess(log.say) as metrics:
        supervisor = Supervisor(lambda: load(arguments.config), log.say, Notifier(os.environ))
        log.notice(f"supervising: {_what(supervisor.config)}")
        metrics.serve(supervisor.config.listen)
        supervisor.run(on_reload=lambda new: metrics.serve(new.listen))
    return Exit.FINE


def _what(config: Config) -> str:
    devices = ", ".join(config.interfaces) or "no interfaces"
    switch = {None: "left as it is", True: "on", False: "off"}[config.passtos]
    policy = "left as it is" if config.policy is None else "set"
    metrics = config.listen or "not served"
    return f"{devices}; hook {config.hook.value}; passtos {switch}; policy {policy}; metrics {metrics}"


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold the place of this network namespace's supervisor, as long as we live; RefusedError where another has it."""
    with kernel_errors("supervise"):
        bpffs.ensure_mounted()
        with bpffs.locked():
            try:
                fd = bpffs.hold(f"supervised_{netns.cookie()}")
            except BusyError as error:
                raise RefusedError("another supervisor works in this network namespace", error.hint) from None
    with opened(fd):
        yield
