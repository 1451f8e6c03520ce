"""Records that are marked and sent all the time, and what the wire has to say of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qosctl.bpf.dscp import EF

from tests.lab import Capture
from tests.supervisor.stand import Stand, Tunnel

_PAUSE_S = 0.001


@dataclass
class Load:
    """`sent` is how many so far."""

    wire: Capture
    sent: int = 0

    def unmarked(self) -> int:
        """Wait for all that was sent and return how many came without the mark EF."""
        frames = self.wire.wait_for(lambda frames: len(frames) >= self.sent, timeout=20)
        assert len(frames) == self.sent, f"{self.sent - len(frames)} packets never arrived"
        return sum(frame.dscp != EF.value for frame in frames)


@contextmanager
def loaded(stand: Stand) -> Iterator[Load]:
    """Send records marked EF, some 800 a second, while the block lasts. Something must be attached and on."""
    stop = threading.Event()
    with stand.tunnel() as tunnel, stand.watching() as wire:
        load = Load(wire)
        thread = threading.Thread(target=_send, args=(tunnel, load, stop))
        thread.start()
        try:
            yield load
        finally:
            stop.set()
            thread.join()
            wire.wait_for(lambda frames: len(frames) >= load.sent, timeout=20)


def _send(tunnel: Tunnel, load: Load, stop: threading.Event) -> None:
    while not stop.is_set():
        tunnel.send(load.sent + 1)
        load.sent += 1
        time.sleep(_PAUSE_S)
