"""The process that attaches: it pays for bcc (100 MB, half a second) and ends, so that the supervisor stays small.

A JSON array comes in on stdin: of {"device", "hook"} to attach, and of {"device", "follow", "unfollow"}, whose device is a
name for it all. A line of JSON goes out for each, as soon as it is done: {"device", "hook", "change"}, without a hook where
tunnels are followed, or {"device", "error", "hint"}. One by one: what is refused does not stop the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from qosctl.bpf.errors import NotAttachedError, QosctlError
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.follow import follow, unfollow
from qosctl.supervisor.devices.hooks import HookKind

ARGV = (sys.executable, "-P", "-m", __name__)


def do_each(requests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Do each, leaving the switch as it is where there are maps already, and yield what came of it."""
    for request in requests:
        try:
            done = _follow(request) if "follow" in request else _attach(request)
        except QosctlError as error:
            yield {"device": request["device"], "error": error.message, "hint": error.hint}
        else:
            yield {"device": request["device"], **done}


def _attach(request: dict[str, Any]) -> dict[str, str]:
    (done,) = attach([request["device"]], HookKind(request["hook"]), keep_switch=True)
    return {"hook": done.hook.value, "change": done.change}


def _follow(request: dict[str, Any]) -> dict[str, str]:
    follow(request["follow"], to_come=True)
    for pattern in request["unfollow"]:
        with suppress(NotAttachedError):  # somebody has been faster
            unfollow([pattern])
    return {"change": "followed"}


def _own_stdout() -> IO[str]:
    """Take stdout for the answers alone: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Do what stdin asks for, and answer on stdout."""
    with _own_stdout() as out:
        for answer in do_each(json.load(sys.stdin)):
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
