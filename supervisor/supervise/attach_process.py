"""One run of the worker (attach_worker.py): its process, its answers as they come, and an end when it takes too long."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.supervise.attach_worker import ARGV
from qosctl.supervisor.supervise.reconcile import Attach, Follow

PATIENCE_S = 60.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What came of one request: `change` (see attach.Attached) and the `hook` of an attach, or `error` with a hint."""

    request: Attach | Follow
    change: str = ""
    hook: HookKind | None = None
    error: str = ""


class AttachProcess:
    """A worker at work. It is readable (`fileno`) when it has said something or has ended."""

    def __init__(self, requests: Sequence[Attach | Follow], now: float) -> None:
        self._unanswered = {request.name: request for request in requests}
        self._buffer = b""
        self.deadline = now + PATIENCE_S
        # In a group of its own: a Ctrl-C is for us, who end it.
        self._process = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        try:  # a few names fit into a pipe, so this does not wait
            self._process.stdin.write(json.dumps([_as_json(request) for request in requests]).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; its end is seen like any other

    def fileno(self) -> int:
        """Return the descriptor of its answers."""
        return self._out

    def read(self) -> tuple[list[Answer], bool]:
        """Return the answers that have come, and whether it has ended; after its end every request has an answer."""
        ended = False
        try:
            chunk = os.read(self._out, _READ_BYTES)
            ended = not chunk
            self._buffer += chunk
        except BlockingIOError:
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        answers = [answer for line in lines if (answer := self._answer(line)) is not None]
        if ended:
            status = self._process.wait()
            answers += [Answer(each, error=f"attaching ended with status {status}") for each in self._unanswered.values()]
            self._unanswered.clear()
        return answers, ended

    def end(self) -> None:
        """Make it stop; an attach can be killed at any step."""
        self._process.kill()

    def close(self) -> None:
        """End it and give its descriptors back."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self, line: bytes) -> Answer | None:
        try:
            said: dict[str, Any] = json.loads(line)
            request = self._unanswered.pop(said["device"])
        except (ValueError, KeyError, TypeError):
            return None
        if "error" in said:
            return Answer(request, error=f"{said['error']} (try: {said['hint']})" if said["hint"] else said["error"])
        return Answer(request, change=said["change"], hook=HookKind(said["hook"]) if "hook" in said else None)


def _as_json(request: Attach | Follow) -> dict[str, Any]:
    if isinstance(request, Follow):
        return {"device": request.name, "follow": request.wanted, "unfollow": request.dropped}
    return {"device": request.name, "hook": request.hook.value}
