"""The moment of switching off, under traffic."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from tests.demo import terminal
from tests.demo.probe import Probe, carried, sending
from tests.demo.stage import Stage
from tests.lab import Frame

_EF = Probe(family=4, dscp=46, ecn=0)
_GAP_SECONDS = 0.0005
_BEFORE_SECONDS, _AFTER_SECONDS = 0.3, 0.5


@dataclass(frozen=True)
class SwitchOff:
    """A stream of EF packets, one every half millisecond, while `qosctl passtos off` runs. Times from the wire."""

    last_marked_ms: float  # after the command was started, its own start included
    command_ms: float  # from starting the command to its return
    marked_after_return: int
    unmarked_before_last_marked: int  # after the start: 0 is a clean edge, the very next packet was bare
    unmarked: int


def switch_off(stage: Stage) -> SwitchOff:
    """Run the command under traffic and read from the wire what it did."""
    stop = threading.Event()
    stage.wire.clear()
    with sending(stage) as send:

        def stream() -> None:
            while not stop.is_set():
                send(_EF)
                time.sleep(_GAP_SECONDS)

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            time.sleep(_BEFORE_SECONDS)
            terminal.command("qosctl passtos off")
            started = time.time_ns()
            said = stage.qosctl("passtos", "off")
            returned = time.time_ns()
            time.sleep(_AFTER_SECONDS)
        finally:
            stop.set()
            thread.join()
    terminal.quote(said.stdout + said.stderr)
    return _read(stage.wire.frames(), started, returned)


def _read(frames: list[Frame], started: int, returned: int) -> SwitchOff:
    stream = [frame for frame in frames if carried([frame], [_EF])]
    last_marked = max((frame.time_ns for frame in stream if frame.dscp), default=started)
    bare = [frame.time_ns for frame in stream if not frame.dscp]
    return SwitchOff(
        last_marked_ms=(last_marked - started) / 1e6,
        command_ms=(returned - started) / 1e6,
        marked_after_return=sum(frame.dscp != 0 and frame.time_ns > returned for frame in stream),
        unmarked_before_last_marked=sum(started < time_ns < last_marked for time_ns in bare),
        unmarked=len(bare),
    )
