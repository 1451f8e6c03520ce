"""The client's end of its helper: a marker, and a setter of routes and DNS. Both only send requests.

Nothing here waits while packets pass: requests for the flow are sent if there is room, and their answers are read at
the next housekeeping. Between sessions, and at the end, waiting is bounded.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from qosctl.bpf.errors import QosctlError, RefusedError
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.maps.ring import RingMemory
from qosctl.bpf.maps.switch import SwitchReader
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.session.marker import FlowMemory
from qosctl.dtls.session.session_stats import Statistics
from qosctl.dtls.transport.netdev import Interface
from qosctl.supervisor.tunnel import helper_messages, vpnc_environment
from qosctl.supervisor.tunnel.flow_marker import passtos_of
from qosctl.supervisor.tunnel.flow_page_writer import store
from qosctl.supervisor.tunnel.vpnc_script import CLOSE_S

_ANSWER_S = 5.0
"""How long a helper may take for what costs it nothing."""
_DEVICE_S = 20.0
"""The same for a device: the kernel may have to load a module."""


class Answer(NamedTuple):
    """What the helper answered, and the descriptors beside it, which are the reader's to close."""

    value: Any
    descriptors: list[int]
    error: QosctlError | None


class HelperClient:
    """The client's end of the connection. Where the helper is gone, `warn` gets one line, and there are no answers."""

    def __init__(self, connection: socket.socket, warn: Callable[[str], None]) -> None:
        self._connection = connection
        self._warn = warn
        self._number = 0
        self._expected: dict[int, Answer | None] = {}
        self.gone = False

    def ask(self, kind: str, wait_s: float = _ANSWER_S, **arguments: Any) -> Any:
        """Return the answer, None where there is none within `wait_s`."""
        answer = self._exchange(kind, wait_s, arguments)
        return None if answer is None else answer.value

    def ask_about(self, kind: str, shown: int) -> Answer | None:
        """Show a descriptor, and return the answer: None where there is none, in time or any more."""
        return self._exchange(kind, _ANSWER_S, {}, [shown])

    def require(self, kind: str, wait_s: float = _ANSWER_S, **arguments: Any) -> Answer:
        """Return the answer; RefusedError where there is none, and the error where that is the answer."""
        answer = self._exchange(kind, wait_s, arguments)
        if answer is None:
            raise RefusedError("the helper does not answer", "connect again")
        if answer.error is not None:
            raise answer.error
        return answer

    def _exchange(
        self, kind: str, wait_s: float, arguments: dict[str, Any], descriptors: Sequence[int] = ()
    ) -> Answer | None:
        deadline = time.monotonic() + wait_s
        number = self._tell_by(deadline, kind, arguments, descriptors)
        while (answer := self.answer_to(number)) is None:
            if not self._wait(select.POLLIN, deadline):
                self.forget(number)
                return None
        return answer

    def order(self, kind: str, **arguments: Any) -> None:
        """Send a request without reading its answer; wait for room alone."""
        self.forget(self._tell_by(time.monotonic() + _ANSWER_S, kind, arguments))

    def tell(self, kind: str, descriptors: Sequence[int] = (), **arguments: Any) -> int:
        """Send a request without waiting; returns its number, for `answer_to` or `forget`, or 0 where there is no room."""
        self._hear()
        self._number += 1
        if not self._send({"number": self._number, "kind": kind, "arguments": arguments}, descriptors):
            return 0
        self._expected[self._number] = None
        return self._number

    def answer_to(self, number: int) -> Answer | None:
        """Return what a request was answered, once; None as long as it is not."""
        self._hear()
        answer = self._expected.get(number)
        if answer is not None:
            del self._expected[number]
        return answer

    def forget(self, number: int) -> None:
        """Drop the answer to that request, which may have come or not."""
        answer = self._expected.pop(number, None)
        _close(answer.descriptors if answer is not None else ())

    def _tell_by(self, deadline: float, kind: str, arguments: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        while not (number := self.tell(kind, descriptors, **arguments)):
            if not self._wait(select.POLLOUT, deadline):
                return 0
        return number

    def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> bool:
        try:
            helper_messages.send(self._connection, message, descriptors)
        except BlockingIOError:
            return False
        except OSError:
            self._lose()
            return False
        return True

    def _hear(self) -> None:
        """Take what has been said."""
        with suppress(BlockingIOError):
            while not self.gone:
                try:
                    message, descriptors, _ = helper_messages.receive(self._connection)
                except ConnectionError:
                    message, descriptors = b"", []
                if not message:
                    self._lose()
                    return
                said = helper_messages.parse_answer(message)
                if said["number"] in self._expected:
                    self._expected[said["number"]] = Answer(said.get("answer"), descriptors, helper_messages.refused(said))
                else:
                    _close(descriptors)

    def _wait(self, events: int, deadline: float) -> bool:
        """Wait for room or for words; False when it is not worth waiting any longer."""
        left = deadline - time.monotonic()
        if self.gone or left <= 0:
            return False
        poll = select.poll()
        poll.register(self._connection, events)
        poll.poll(left * 1000 + 1)
        return True

    def _lose(self) -> None:
        if not self.gone:
            self.gone = True
            self._warn("the helper is gone: no marks after a reconnect, and routes and DNS stay until the next connect")


class RemoteMarker:
    """Satisfies qosctl.dtls.session.marker.Marker: the entry is the helper's, the marks are stored here."""

    def __init__(self, remote: HelperClient) -> None:
        self._remote = remote
        self._asked = 0  # the request whose ring is awaited
        self._unsent: int | None = None  # the descriptor of a flow that there was no room to ask for
        self._last: Statistics | None = None
        self._page: memoryview | None = None
        self._memory: FlowMemory | None = None
        self.switch: SwitchReader | None = None

    def flow_opened(self, outer: int, tunnel: str) -> None:
        """Ask for the flow to be entered; where that fails, the helper tells."""
        del tunnel  # the helper knows its own
        self._let_go()
        self._unsent = os.dup(outer)
        self._look()

    def memory(self) -> FlowMemory | None:
        """Return where to mark."""
        if self.waiting:
            self._look()
        return self._memory

    @property
    def waiting(self) -> bool:
        """Whether the ring may still come."""
        return not self._remote.gone and (self._asked != 0 or self._unsent is not None)

    def flow_closed(self) -> None:
        """Have the flow taken out."""
        self._let_go()
        self._remote.forget(self._remote.tell("no flow"))

    def passtos(self) -> bool:
        """Whether marks leave at present."""
        return passtos_of(self.switch)

    def publish(self, now: Statistics) -> None:
        """Show what the client counted, now or when there is a ring to show it in."""
        self._last = now
        if self._page is not None:
            store(now, self._page)

    def _look(self) -> None:
        """Ask, if there was no room to ask before, and look for the answer."""
        if self._unsent is not None:
            self._asked = self._remote.tell("flow", [self._unsent])
            if not self._asked:
                return
            os.close(self._unsent)
            self._unsent = None
        answer = self._remote.answer_to(self._asked)
        if answer is not None:
            self._asked = 0
            if answer.value:
                self._take(*answer.descriptors)

    def _take(self, ring: int, switch: int) -> None:
        self.switch = SwitchReader(switch)
        with opened(ring):
            marks, self._page, rtt_requests = RingMemory.of(ring)
        if self._last is not None:
            store(self._last, self._page)
        self._memory = FlowMemory(marks, rtt_requests)

    def _let_go(self) -> None:
        self._remote.forget(self._asked)
        if self._unsent is not None:
            os.close(self._unsent)
        if self.switch is not None:
            self.switch.close()
        self._asked, self._unsent, self._page, self._memory, self.switch = 0, None, None, None, None


class RemoteDevice:
    """Satisfies qosctl.dtls.transport.netdev.DeviceKeeper: the helper makes the device and changes it."""

    def __init__(self, remote: HelperClient) -> None:
        self._remote = remote

    def create(self, name: str | None, mtu: int, addresses: Sequence[Interface], *, assign: bool) -> tuple[int, str]:
        """Have it made. Its name, and whether it gets its addresses there, the helper knows already."""
        del name, assign
        answer = self._remote.require("device", _DEVICE_S, mtu=mtu, addresses=[str(each) for each in addresses])
        (descriptor,) = answer.descriptors
        return descriptor, str(answer.value)

    def set_mtu(self, mtu: int) -> None:
        """Have it sized."""
        self._remote.forget(self._remote.tell("fit", mtu=mtu))

    def readdress(self, addresses: Sequence[Interface]) -> int:
        """Have it given other addresses."""
        return int(self._remote.require("readdress", addresses=[str(each) for each in addresses]).value)


class RemoteScript:
    """Satisfies qosctl.dtls.host_config.HostConfigurator."""

    def __init__(self, remote: HelperClient) -> None:
        self._remote = remote

    def prepare(self, given: HostConfig) -> None:
        """Have pre-init called."""
        self._remote.order("prepare", given=vpnc_environment.document(given))

    def apply(self, given: HostConfig) -> None:
        """Have what the new session takes called."""
        self._remote.order("apply", given=vpnc_environment.document(given))

    def attempt(self) -> None:
        """Have attempt-reconnect called."""
        self._remote.order("attempt")

    def settle(self, seconds: float) -> bool:
        """Wait until no call is open."""
        deadline = time.monotonic() + seconds
        while self._remote.ask("settle") is False:
            if time.monotonic() >= deadline:
                return False
        return True

    def close(self, *, asked: bool) -> None:
        """Have all undone, and wait."""
        self._remote.ask("close", CLOSE_S + _ANSWER_S, asked=asked)


def _close(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)
