"""Records that are marked and sent all the time, and what the wire has to say of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qosctl.bpf.dscp import EF

from tests.lab import Capture
from tests.lab.wire import Stand, Tunnel

_PAUSE_S = 0.001


@dataclass
class Load:
    """`sent` is how many so far."""

    wire: Capture
    sent: int = 0

    @property
    def lost(self) -> int:
        """How many never arrived. Linux drops packets whenever a clsact qdisc is made or deleted, by whomever: it
        deactivates the device for that moment (qdisc_graft). Making a TCX link does not.
        """
        return self.sent - len(self.wire.frames())

    def unmarked(self) -> int:
        """Return how many arrived without the mark EF."""
        return sum(frame.dscp != EF.value for frame in self.wire.frames())


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
            wire.wait_for(lambda frames: len(frames) >= load.sent, timeout=2)


def _send(tunnel: Tunnel, load: Load, stop: threading.Event) -> None:
    while not stop.is_set():
        tunnel.send(load.sent + 1)
        load.sent += 1
        time.sleep(_PAUSE_S)
