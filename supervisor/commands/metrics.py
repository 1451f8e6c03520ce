"""`qosctl metrics [--listen 127.0.0.1:PORT]`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO

from qosctl.bpf import syscall
from qosctl.bpf.device import DevicePins
from qosctl.metrics.collector import KernelCollector, registry_of
from qosctl.metrics.listen import DEFAULT, parse_listen
from qosctl.metrics.readings import Attachment, require_privilege
from qosctl.metrics.server import Endpoint
from qosctl.supervisor import hooks
from qosctl.supervisor.exits import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take --listen."""
    parser.add_argument(
        "--listen",
        default=str(DEFAULT),
        metavar="ADDRESS:PORT",
        help="where to serve /metrics: a numeric address and a port, or a port alone for 127.0.0.1 (default: %(default)s)",
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Serve until SIGINT or SIGTERM; the first line on stdout says where."""
    listen = parse_listen(arguments.listen)
    require_privilege()
    collector = KernelCollector(attachment_of, version=_version(), report=_Complaints(sys.stderr))
    with Endpoint(registry_of(collector), listen) as endpoint:
        print(f"serving {endpoint.url}", file=out, flush=True)
        endpoint.run()
    return Exit.FINE


def attachment_of(pins: DevicePins) -> Attachment | None:
    """Return what stands at the device's hook, as the kernel says.

    An attach with another hook moves the program while it marks; it may slip from one hook to the other between our looks
    at them, so only a second look tells that it is not there.
    """
    return _attachment(pins) or _attachment(pins)


def _attachment(pins: DevicePins) -> Attachment | None:
    hook = hooks.present(pins)
    program_id = hook.attached() if hook is not None else None
    if hook is None or program_id is None:
        return None
    fd = syscall.program_by_id(program_id)
    try:
        return Attachment(hook.kind.value, syscall.program_info(fd))
    finally:
        os.close(fd)


class _Complaints:
    """Says once that a part cannot be read, and once that it can again, however often it is scraped."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._said: dict[str, str] = {}

    def __call__(self, part: str, error: Exception | None) -> None:
        before = self._said.pop(part, "")
        if error is not None:
            self._said[part] = str(error)
            if before != str(error):
                print(f"qosctl: metrics: {part}: {error}", file=self._err, flush=True)
        elif before:
            print(f"qosctl: metrics: {part}: readable again", file=self._err, flush=True)


def _version() -> str:
    try:
        return version("qosctl")
    except PackageNotFoundError:  # run from the source tree
        return "uninstalled"
