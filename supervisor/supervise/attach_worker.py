"""The process that attaches: it pays for bcc (100 MB, half a second) and ends, so that the supervisor stays small.

A JSON array of [device, hook] comes in on stdin; a line of JSON goes out for each, as soon as it is done:
{"device", "hook", "change"} or {"device", "error", "hint"}. Device by device: one that refuses does not stop the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from qosctl.bpf.errors import QosctlError
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind

ARGV = (sys.executable, "-P", "-m", __name__)


def attach_each(request: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Attach each, leaving the switch as it is where there are maps already, and yield what came of it."""
    for name, hook in request:
        try:
            (done,) = attach([name], HookKind(hook), keep_switch=True)
        except QosctlError as error:
            yield {"device": name, "error": error.message, "hint": error.hint}
        else:
            yield {"device": name, "hook": done.hook.value, "change": done.change}


def _own_stdout() -> IO[str]:
    """Take stdout for the answers alone: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer one request."""
    with _own_stdout() as out:
        for answer in attach_each(json.load(sys.stdin)):
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
