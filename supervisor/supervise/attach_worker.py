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


def do_each(request: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Do each, leaving the switch as it is where there are maps already, and yield what came of it."""
    for wish in request:
        try:
            done = _follow(wish) if "follow" in wish else _attach(wish)
        except QosctlError as error:
            yield {"device": wish["device"], "error": error.message, "hint": error.hint}
        else:
            yield {"device": wish["device"], **done}


def _attach(wish: dict[str, Any]) -> dict[str, str]:
    (done,) = attach([wish["device"]], HookKind(wish["hook"]), keep_switch=True)
    return {"hook": done.hook.value, "change": done.change}


def _follow(wish: dict[str, Any]) -> dict[str, str]:
    if wish["follow"]:
        follow(wish["follow"], to_come=True)
    with suppress(NotAttachedError):  # somebody has been faster
        for pattern in wish["unfollow"]:
            unfollow([pattern])
    return {"change": "followed"}


def _own_stdout() -> IO[str]:
    """Take stdout for the answers alone: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer one request."""
    with _own_stdout() as out:
        for answer in do_each(json.load(sys.stdin)):
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
