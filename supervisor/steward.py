"""The process that keeps root when the client gives it up, for what needs root: the flow's entry and the script.

    client (another user, CAP_NET_ADMIN) ----- requests: one JSON object a packet -----> steward (root)
                                         <---- answers, with the ring and the switch  -----

It hears nothing but that socket, and believes nothing it hears: addresses are parsed anew, and neither the script nor the
process id in its environment can be chosen. When the client is gone, however it went, the steward undoes everything.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from qosctl.supervisor import vpnc
from qosctl.supervisor.log import Log
from qosctl.supervisor.marker import FlowMarker
from qosctl.supervisor.memory import Memory
from qosctl.supervisor.script import CLOSE_S, Script

MESSAGE_BYTES_MAX = 1 << 17
_SETTLE_MAX_S = 1.0
_END_S = CLOSE_S + 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Steward:
    """The client's end: a socket to the other process, which `start` begins and `end` waits for."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self._pid = pid
        self.connection = connection

    @classmethod
    def start(cls, marker: FlowMarker, script: Script | None, memory: Memory | None) -> Steward:
        """Fork: the objects work on in the child alone. No thread may run yet."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES_MAX)
        pid = os.fork()
        if pid:
            theirs.close()
            if memory is not None:
                memory.leave()
            return cls(pid, ours)
        status = 1
        try:
            ours.close()
            # Whoever stops the client by a signal to the group reaches us too: we go when it has gone. Not SIG_IGN, which
            # the script would inherit.
            for number in _SIGNALS:
                signal.signal(number, lambda *_: None)
            _serve(theirs, marker, script)
            if memory is not None:
                memory.forget()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)

    def end(self) -> None:
        """Let the other process undo what is left, and wait for it."""
        self.connection.close()
        deadline = time.monotonic() + _END_S
        with suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.005)


def _serve(connection: socket.socket, marker: FlowMarker, script: Script | None) -> None:
    try:
        with suppress(ConnectionError):  # gone with something unread: an end like any other
            while True:
                message, shown, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, 1)
                if not message:
                    break
                try:
                    answer, descriptors = _answer(message, shown, marker, script)
                finally:
                    for each in shown:
                        os.close(each)
                with suppress(OSError):  # gone meanwhile: the next read says so
                    socket.send_fds(connection, [json.dumps(answer).encode()], descriptors)
    finally:
        if script is not None:
            script.close(asked=False)  # nothing happens where the client has closed it, as it does at every end it knows of
        marker.flow_closed()


def _answer(message: bytes, shown: list[int], marker: FlowMarker, script: Script | None) -> tuple[Any, list[int]]:
    """Do what is asked; returns the answer and descriptors. A request that makes no sense gets None."""
    try:
        asked = json.loads(message)
        kind, arguments = asked["kind"], asked["arguments"]
        if kind in _FOR_SCRIPT and script is not None:
            return _FOR_SCRIPT[kind](script, arguments), []
        if kind == "flow_opened":
            (outer,), (tunnel,) = shown, arguments
            marker.flow_opened(outer, str(tunnel))
            return True, marker.descriptors
        if kind == "flow_closed":
            marker.flow_closed()
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        Log(sys.stderr, os.environ).warning(f"a request that makes no sense: {type(error).__name__}")
    return None, []


_FOR_SCRIPT: dict[str, Callable[[Script, Any], Any]] = {
    "prepare": lambda script, arguments: script.prepare(vpnc.from_document(arguments[0])),
    "apply": lambda script, arguments: script.apply(vpnc.from_document(arguments[0])),
    "attempt": lambda script, _: script.attempt(),
    "settle": lambda script, arguments: script.settle(min(float(arguments[0]), _SETTLE_MAX_S)),
    "close": lambda script, arguments: script.close(asked=arguments[0] is True),
}
