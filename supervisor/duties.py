"""What a steward does for its client, one request after another, as long as the client is there.

It serves one client, and only that client's own tunnel. How much it is asked is bounded (`Budget`), and so is what waits to
be done for it: a client that asks for more waits, and then its requests do. What makes no sense is refused, said once, and
leaves nothing behind.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from qosctl.bpf.errors import QosctlError
from qosctl.dtls.addressing import widen
from qosctl.supervisor import dialogue, vpnc
from qosctl.supervisor.budget import Budget
from qosctl.supervisor.dialogue import Request
from qosctl.supervisor.marker import FlowMarker, socket_of
from qosctl.supervisor.script import Script

CALLS_MAX = 8
"""Calls of the script that may wait for one that takes long."""
_SETTLE_MAX_S = 0.1
_LOOK_S = 0.1


class Duties:
    """Serves `connection` until nobody is at its other end."""

    def __init__(
        self, connection: socket.socket, marker: FlowMarker, script: Script | None, warn: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._marker = marker
        self._script = script
        self._warn = warn
        self._complained = False
        self._flow = 0  # the request that is answered when its flow is entered; 0 for none
        self._requests = Budget(burst=50, per_s=20)
        self._calls = Budget(burst=10, per_s=1)

    def serve(self) -> None:
        """Do what is asked until the client has gone, however it went."""
        with suppress(ConnectionError):  # gone with something unread: an end like any other
            while self._await_request():
                message, shown, whole = dialogue.receive(self._connection)
                try:
                    if not message:
                        return
                    self._serve_one(message if whole else b"", shown)
                finally:
                    for each in shown:
                        os.close(each)

    def _await_request(self) -> bool:
        """Wait until there is a request that may be served; False when the client has gone."""
        while True:
            pause = self._requests.wait_s(time.monotonic())
            if pause:
                if not self._rest(pause):
                    return False
                continue
            self._poll.modify(self._connection, select.POLLIN)
            ready = self._poll.poll(self._marker.next_step_s() * 1000 if self._marker.waiting else None)
            if ready:
                self._requests.take(time.monotonic())
                return not _hung_up(ready)
            self._see_to_flow()

    def _rest(self, seconds: float) -> bool:
        """Serve nobody for a while; False when the client has gone meanwhile. The flow's entry is seen to."""
        self._poll.modify(self._connection, 0)
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if _hung_up(self._poll.poll(min(left, _LOOK_S) * 1000 + 1)):
                return False
            self._see_to_flow()
        return True

    def _serve_one(self, message: bytes, shown: Sequence[int]) -> None:
        number = 0
        try:
            request = dialogue.parse_request(message)
            number = request.number
            if request.kind == "flow":
                self._open_flow(request, shown)
                return
            answer = {"answer": self._do(request)}
        except (ValueError, OSError, QosctlError) as error:
            answer = {"refused": str(error)}
            if not self._complained:
                self._complained = True
                self._warn(f"refused what the client asked for: {error}")
        self._send({"number": number, **answer})

    def _do(self, request: Request) -> Any:
        match request.kind:
            case "no flow":
                self._flow = 0
                return self._marker.flow_closed()
        if self._script is None:
            raise ValueError(f"nothing to do for: {request.kind[:20]}")
        match request.kind:
            case "prepare":
                given = vpnc.from_document(request.arguments.get("given"))
                return self._call(lambda script: script.prepare(given))
            case "apply":
                given = vpnc.from_document(request.arguments.get("given"))
                return self._call(lambda script: script.apply(given))
            case "attempt":
                return self._call(lambda script: script.attempt())
            case "settle":
                return self._script.settle(_SETTLE_MAX_S)
            case "close":
                return self._script.close(asked=request.arguments.get("asked") is True)
        raise ValueError(f"nothing to do for: {request.kind[:20]}")

    def _call(self, do: Callable[[Script], None]) -> None:
        """Have the script do something, in its time: not too often, and not too much of it at once."""
        assert self._script is not None
        while (pause := self._calls.wait_s(time.monotonic())) or self._script.open_calls >= CALLS_MAX:
            if not self._rest(pause or _LOOK_S):
                return
        self._calls.take(time.monotonic())
        do(self._script)

    def _open_flow(self, request: Request, shown: Sequence[int]) -> None:
        tunnel = request.arguments.get("tunnel")
        if len(shown) != 1 or not isinstance(tunnel, str) or not vpnc.DEVICE.match(tunnel):
            raise ValueError("no socket, or no tunnel")
        self._flow = 0
        self._marker.flow_opened(shown[0], tunnel)
        self._flow = request.number
        with socket_of(shown[0]) as outer:
            if outer.type == socket.SOCK_DGRAM:  # TCP sizes its buffers better itself
                widen(outer)
        self._tell_flow()

    def _see_to_flow(self) -> None:
        self._marker.step()
        self._tell_flow()

    def _tell_flow(self) -> None:
        """Let the client have the ring, or know that there is none, once that is clear."""
        if self._flow and not self._marker.waiting:
            told, self._flow = self._flow, 0
            descriptors = self._marker.descriptors
            self._send({"number": told, "answer": bool(descriptors)}, descriptors)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        # Who does not read his answers loses them; who has gone, the next wait finds out.
        with suppress(BlockingIOError, ConnectionError):
            dialogue.send(self._connection, message, descriptors)


def _hung_up(ready: Sequence[tuple[int, int]]) -> bool:
    return any(events & ~select.POLLIN for _, events in ready)
