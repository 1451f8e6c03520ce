"""One running attach: the worker's process, its answers as they come, and an end to it when it takes too long."""

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
    """What came of one wish: `change` (see attach.Attached) and the `hook` of an attach, or `error` with a hint."""

    wish: Attach | Follow
    change: str = ""
    hook: HookKind | None = None
    error: str = ""


class AttachProcess:
    """A worker at work. It is readable (`fileno`) when it has said something or has ended."""

    def __init__(self, wishes: Sequence[Attach | Follow], now: float) -> None:
        self._wishes = {wish.name: wish for wish in wishes}
        self._buffer = b""
        self.deadline = now + PATIENCE_S
        # In a group of its own: a Ctrl-C is for us, who end it.
        self._process = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        try:  # a few names fit into a pipe, so this does not wait
            self._process.stdin.write(json.dumps([_request(wish) for wish in wishes]).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; its end is seen like any other

    def fileno(self) -> int:
        """Return the descriptor of its answers."""
        return self._out

    def read(self) -> tuple[list[Answer], bool]:
        """Return the answers that have come, and whether it has ended; after its end every wish has an answer."""
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
            answers += [Answer(wish, error=f"attaching ended with status {status}") for wish in self._wishes.values()]
            self._wishes.clear()
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
            wish = self._wishes.pop(said["device"])
        except (ValueError, KeyError, TypeError):
            return None
        if "error" in said:
            return Answer(wish, error=f"{said['error']} (try: {said['hint']})" if said["hint"] else said["error"])
        return Answer(wish, change=said["change"], hook=HookKind(said["hook"]) if "hook" in said else None)


def _request(wish: Attach | Follow) -> dict[str, Any]:
    if isinstance(wish, Follow):
        return {"device": wish.name, "follow": wish.wanted, "unfollow": wish.dropped}
    return {"device": wish.name, "hook": wish.hook.value}
