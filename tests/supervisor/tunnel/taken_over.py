"""A client that has been taken over, and what it has to say and to show."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.supervisor.tunnel import helper_messages
from qosctl.supervisor.tunnel.helper import Helper

from tests.lab.wire import ADDRESSES

SERVER = (ADDRESSES[4][1], 4443)
PATIENCE_S = 20.0
GIVEN = {
    "tunnel": "vpn0", "gateway": "10.92.0.2", "mtu": 1400, "addresses": ["192.168.77.5/24"], "include": [], "exclude": [],
    "splits": [], "dns": [], "nbns": [], "domain": "", "split_dns": [], "idle_s": 0, "banner": "", "discarded": 0,
}  # fmt: skip


class Taken:
    """The end of a client that was taken over: it says whatever it likes, as it likes."""

    def __init__(self, helper: Helper, warnings: Path) -> None:
        self.connection = helper.connection
        self.pid = helper._pid
        self._folder = Path(f"/proc/{helper._pid}/fd")
        self._warnings = warnings
        self._number = 1000

    def say(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send bytes, after whatever stands before them in the queue; what was answered before is forgotten."""
        self.drain()
        self.connection.setblocking(True)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(each.to_bytes(4, "little") for each in descriptors))]
        self.connection.sendmsg([message], rights if descriptors else [])

    def give(self, descriptor: int, times: int) -> None:
        """Send a descriptor beside a request, and be the first to close it."""
        pid = int(self._folder.parent.name)
        os.kill(pid, signal.SIGSTOP)
        try:
            self.say(request("settle"), (descriptor,) * times)
            os.close(descriptor)
        finally:
            os.kill(pid, signal.SIGCONT)

    def drain(self) -> list[dict[str, Any]]:
        """Read what has been answered; descriptors are closed."""
        said = []
        try:
            while True:
                message, descriptors, _ = helper_messages.receive(self.connection)
                for each in descriptors:
                    os.close(each)
                assert message, "the helper is gone"
                said.append(json.loads(message))
        except BlockingIOError:
            return said

    def ask(self, kind: str, *descriptors: int, **arguments: Any) -> dict[str, Any]:
        """Ask, and return the answer."""
        self._number += 1
        self.say(json.dumps({"number": self._number, "kind": kind, "arguments": arguments}).encode(), descriptors)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for said in self.drain():
                if said["number"] == self._number:
                    return said
            time.sleep(0.005)
        raise TimeoutError(kind)

    @property
    def descriptors(self) -> list[str]:
        """What the helper has open when it has done what it was asked."""
        self.ask("settle")
        return sorted(os.readlink(each) for each in self._folder.iterdir())  # noqa: PTH115 - no path comes out

    @property
    def warnings(self) -> list[str]:
        """What the helper has said to people."""
        return self._warnings.read_text().splitlines()


Begin = Callable[..., Taken]


@contextmanager
def outer(*, shared: bool = False, to: tuple[str, int] = SERVER, port: int = 0) -> Iterator[socket.socket]:
    """A socket of a tunnel; a `shared` one lets others have the same port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((ADDRESSES[4][0], port))
        made.connect(to)
        yield made


def flows() -> list[Flow]:
    with open_state() as state:
        return list(state.flows)


def request(kind: str, **arguments: Any) -> bytes:
    return json.dumps({"number": 7, "kind": kind, "arguments": arguments}).encode()
