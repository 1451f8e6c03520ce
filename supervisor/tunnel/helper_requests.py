"""What a helper does for its client, one request after another, as long as the client is there.

It serves one client, and only that client's own tunnel. How much it is asked is bounded (`RateLimit`), and so is what waits
to be done for it: a client that asks for more waits, and then its requests do. What makes no sense is refused, said once,
and leaves nothing behind.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from qosctl.bpf.errors import QosctlError, RefusedError
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.addressing import widen
from qosctl.supervisor.process.closing import Closer
from qosctl.supervisor.tunnel import helper_messages, helper_sockets, vpnc_environment
from qosctl.supervisor.tunnel.flow_marker import FlowMarker, socket_of
from qosctl.supervisor.tunnel.helper_device import HelperDevice
from qosctl.supervisor.tunnel.helper_messages import Request
from qosctl.supervisor.tunnel.rate_limit import RateLimit
from qosctl.supervisor.tunnel.vpnc_script import Script

CALLS_MAX = 8
"""Calls of the script that may wait for one that takes long."""
DESCRIPTORS_OPEN_MAX = 256
"""Descriptors of the client's that may wait to be closed; one that sends more has them made so that they do not close."""
_SETTLE_MAX_S = 0.1
_LOOK_S = 0.1


class RequestServer:
    """Serves `connection` until its other end is closed."""

    def __init__(
        self,
        connection: socket.socket,
        device: HelperDevice,
        marker: FlowMarker,
        script: Script | None,
        warn: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._device = device
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._marker = marker
        self._script = script
        self._warn = warn
        self._closer = Closer()
        self._complained = False
        self._flow = 0  # the request that is answered when its flow is entered; 0 for none
        self._requests = RateLimit(burst=50, per_s=20)
        self._calls = RateLimit(burst=10, per_s=1)
        self._for_device: dict[str, Callable[[Request], Any]] = {
            "fit": lambda request: device.set_mtu(request.arguments),
            "readdress": lambda request: device.readdress(request.arguments),
            "no flow": lambda _: self._close_flow(),
        }
        self._for_script: dict[str, Callable[[Script, Request], Any]] = {
            "prepare": lambda script, request: self._call(script, partial(script.prepare, self._given(request))),
            "apply": lambda script, request: self._call(script, partial(script.apply, self._given(request))),
            "attempt": lambda script, _: self._call(script, script.attempt),
            "settle": lambda script, _: script.settle(_SETTLE_MAX_S),
            "close": lambda script, request: script.close(asked=request.arguments.get("asked") is True),
        }

    def serve(self) -> None:
        """Do what is asked until the client has gone, however it went."""
        with suppress(ConnectionError):  # gone with something unread: an end like any other
            while self._await_request():
                message, shown, whole = helper_messages.receive(self._connection)
                try:
                    if not message:
                        return
                    self._serve_one(message if whole else b"", shown)
                finally:
                    left = self._closer.close(shown)
                if left > DESCRIPTORS_OPEN_MAX:
                    self._warn("the client shows what cannot be closed: its tunnel ends")
                    return

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
        """Take no request for a while; False when the client has gone meanwhile. The flow's entry is still made."""
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
            request = helper_messages.parse_request(message)
            number = request.number
            if request.kind == "flow":
                self._open_flow(request, shown)
            elif request.kind == "mark":
                self._mark(shown)
                self._send({"number": number, "answer": True})
            elif request.kind == "device":
                name = self._device.create(request.arguments, assign=self._script is None)
                self._send({"number": number, "answer": name}, [self._device.descriptor])
            else:
                self._send({"number": number, "answer": self._do(request)})
        except QosctlError as error:  # what a client that means well has to know
            self._send({"number": number, **helper_messages.refusal(error)})
        except (ValueError, OSError) as error:
            if not self._complained:
                self._complained = True
                self._warn(f"refused what the client asked for: {error}")
            self._send({"number": number, **helper_messages.refusal(RefusedError(str(error)))})

    def _do(self, request: Request) -> Any:
        if request.kind in self._for_device:
            return self._for_device[request.kind](request)
        if request.kind in self._for_script and self._script is not None:
            return self._for_script[request.kind](self._script, request)
        raise ValueError(f"nothing to do for: {request.kind[:20]}")

    def _close_flow(self) -> None:
        self._flow = 0
        self._marker.flow_closed()

    def _given(self, request: Request) -> HostConfig:
        """Read what a session gives the machine; the device is ours, whatever is said of it."""
        return replace(vpnc_environment.from_document(request.arguments.get("given")), tunnel=self._device.expected)

    def _call(self, script: Script, do: Callable[[], None]) -> None:
        """Have the script do something, in its time: not too often, and not too much of it at once."""
        while (pause := self._calls.wait_s(time.monotonic())) or script.open_calls >= CALLS_MAX:
            if not self._rest(pause or _LOOK_S):
                return
        self._calls.take(time.monotonic())
        do()

    def _open_flow(self, request: Request, shown: Sequence[int]) -> None:
        if len(shown) != 1 or not self._device.name:
            raise ValueError("no socket, or no device yet")
        self._flow = 0
        try:
            self._marker.flow_opened(shown[0], self._device.name)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            raise RefusedError("the other end of the socket has gone already") from error
        self._flow = request.number
        with socket_of(shown[0]) as outer:
            if outer.type == socket.SOCK_DGRAM:  # TCP sizes its buffers better itself
                widen(outer)
        self._tell_flow()

    @staticmethod
    def _mark(shown: Sequence[int]) -> None:
        if len(shown) != 1:
            raise ValueError("not one socket")
        try:
            helper_sockets.mark(shown[0])
        except PermissionError as error:  # who may not mark may not set routes either: nobody needs the mark
            raise RefusedError(f"may not mark a socket: {error}") from error

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
        # A client that does not read its answers loses them; that it has gone, the next wait finds out.
        with suppress(BlockingIOError, ConnectionError):
            helper_messages.send(self._connection, message, descriptors)


def _hung_up(ready: Sequence[tuple[int, int]]) -> bool:
    return any(events & ~select.POLLIN for _, events in ready)
