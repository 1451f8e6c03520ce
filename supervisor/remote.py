"""What the client uses in place of its own marker and script when another process has the privilege: see `steward`."""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from qosctl.bpf.control import SwitchReader
from qosctl.bpf.flow_info import page_words
from qosctl.bpf.inquiry import inquiry_words
from qosctl.bpf.layout import FLOW_INFO_WORDS, RING_WORDS, WORD
from qosctl.dtls.marker import FlowMemory
from qosctl.dtls.surroundings import Given
from qosctl.dtls.tally import Statistics
from qosctl.supervisor import vpnc
from qosctl.supervisor.marker import passtos_of, store
from qosctl.supervisor.steward import MESSAGE_BYTES_MAX

_MARKS_BYTES = RING_WORDS * WORD.size
_DESCRIPTORS = 2  # at the most: a ring and the switch


class Remote:
    """Asks the steward, one question at a time. Where it is gone `warn` gets one line, and the answer is None."""

    def __init__(self, connection: socket.socket, warn: Callable[[str], None]) -> None:
        self._connection = connection
        self._warn = warn
        self._gone = False

    def ask(self, kind: str, *arguments: Any, descriptors: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Return the answer and the descriptors that came with it, which are the caller's to close."""
        message = json.dumps({"kind": kind, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._connection, [message], descriptors)
            answer, given, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, _DESCRIPTORS)
        except OSError:
            answer, given = b"", []
        if not answer:
            if not self._gone:
                self._warn("the process that keeps the privilege is gone: nothing will be marked after a reconnect")
            self._gone = True
            return None, []
        return json.loads(answer), given


class RemoteMarker:
    """Satisfies qosctl.dtls.marker.Marker: the entry is the steward's, the marks are stored here."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._page: memoryview | None = None
        self._memory: FlowMemory | None = None
        self.switch: SwitchReader | None = None

    def flow_opened(self, outer: int, tunnel: str) -> None:
        """Have the flow entered; where that fails, the steward tells."""
        self._let_go()
        _, descriptors = self._remote.ask("flow_opened", tunnel, descriptors=[outer])
        if len(descriptors) != _DESCRIPTORS:
            return
        descriptor, switch = descriptors
        self.switch = SwitchReader(switch)
        size = _MARKS_BYTES + FLOW_INFO_WORDS * WORD.size
        try:
            whole = memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
        finally:
            os.close(descriptor)
        self._page = page_words(whole[_MARKS_BYTES:])
        self._memory = FlowMemory(whole[:_MARKS_BYTES].cast("Q"), inquiry_words(whole[_MARKS_BYTES:]))

    def memory(self) -> FlowMemory | None:
        """Return where to mark."""
        return self._memory

    @property
    def waiting(self) -> bool:
        """Nothing is waited for: `flow_opened` does it all."""
        return False

    def flow_closed(self) -> None:
        """Have the flow taken out."""
        self._let_go()
        self._remote.ask("flow_closed")

    def passtos(self) -> bool:
        """Whether marks leave at present."""
        return passtos_of(self.switch)

    def _let_go(self) -> None:
        self._page = self._memory = None
        if self.switch is not None:
            self.switch.close()
        self.switch = None

    def publish(self, now: Statistics) -> None:
        """Show what the client counted."""
        if self._page is not None:
            store(now, self._page)


class RemoteScript:
    """Satisfies qosctl.dtls.surroundings.Surroundings."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def prepare(self, given: Given) -> None:
        """Have pre-init called."""
        self._remote.ask("prepare", vpnc.document(given))

    def apply(self, given: Given) -> None:
        """Have what the new session takes called."""
        self._remote.ask("apply", vpnc.document(given))

    def attempt(self) -> None:
        """Have attempt-reconnect called."""
        self._remote.ask("attempt")

    def settle(self, seconds: float) -> bool:
        """Wait until no call is open."""
        answer, _ = self._remote.ask("settle", seconds)
        return answer is not False

    def close(self, *, asked: bool) -> None:
        """Have all undone, and wait."""
        self._remote.ask("close", asked)
