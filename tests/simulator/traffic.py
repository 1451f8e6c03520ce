"""The traffic that does not listen: steady datagrams, bursts, calls, video. A source knows nothing of record numbers."""

from __future__ import annotations

import random
from math import ceil

from qosctl.bpf.dscp import Dscp

from tests.simulator.case import BULK_SIZE, Bursts, Call, Flow, Source, Steady, Video
from tests.simulator.clock import Clock
from tests.simulator.flow import Sink, TcpFlow

FRAMES_A_SECOND, KEY_FRAME_EVERY, KEY_FRAME = 30, 60, 6
PIECES = 64
"""Parts that a burst is written in, at the most. The first is a packet by itself: the client wakes up for it, and finds the
others when it comes back."""


def begin(source: Source, clock: Clock, rng: random.Random, sink: Sink) -> None:
    """Plan what the source does."""
    match source:
        case Flow():
            TcpFlow(source, clock, sink)
        case Steady():
            clock.at(source.start_s, _Steadily(source, clock, rng, sink).tick)
        case Call():
            clock.at(source.start_s, _Calling(source, clock, rng, sink).tick)
        case Bursts():
            clock.at(source.start_s, _Bursting(source, clock, rng, sink).tick)
        case Video():
            clock.at(source.start_s, _Filming(source, clock, rng, sink).tick)


class _Steadily:
    def __init__(self, source: Steady, clock: Clock, rng: random.Random, sink: Sink) -> None:
        self._source, self._clock, self._rng, self._sink = source, clock, rng, sink
        self._dscp = Dscp.parse(source.dscp)
        self._gap = source.size * 8 * source.batch / (source.mbit * 1e6)

    def tick(self, _: object) -> None:
        source = self._source
        factor = self._rng.expovariate(1.0) if source.poisson else 0.9 + 0.2 * self._rng.random()
        self._clock.at(self._clock.now + self._gap * factor, self.tick)
        self._sink.offer(self._dscp, source.batch, source.size)


class _Calling:
    def __init__(self, source: Call, clock: Clock, rng: random.Random, sink: Sink) -> None:
        self._source, self._clock, self._rng, self._sink = source, clock, rng, sink
        self._dscp = Dscp.parse(source.dscp)

    def tick(self, _: object) -> None:
        source, now = self._source, self._clock.now
        gap = source.gap_ms / 1000 * (0.98 + 0.04 * self._rng.random())  # a sender's own timer
        if source.talk_s and (now - source.start_s) % (source.talk_s + source.silent_s) + gap >= source.talk_s:
            gap += source.silent_s
        self._clock.at(now + gap, self.tick)
        self._sink.offer(self._dscp, 1, self._source.size)


class _Bursting:
    def __init__(self, source: Bursts, clock: Clock, rng: random.Random, sink: Sink) -> None:
        self._source, self._clock, self._rng, self._sink = source, clock, rng, sink
        self._dscp = Dscp.parse(source.dscp)
        self._count = max(1, round(source.kilobytes * 1000 / source.size))

    def tick(self, _: object) -> None:
        source, clock = self._source, self._clock
        varied = 1 + source.varied * (2 * self._rng.random() - 1)
        clock.at(clock.now + source.period_s * varied, self.tick)
        pieces = min(PIECES, self._count - 1)
        self._write(1)
        for piece in range(pieces):
            count = (self._count - 1) * (piece + 1) // pieces - (self._count - 1) * piece // pieces
            clock.at(clock.now + source.spread_ms / 1000 * piece / pieces, self._write, count)

    def _write(self, count: int) -> None:
        self._sink.offer(self._dscp, count, self._source.size)


class _Filming:
    def __init__(self, source: Video, clock: Clock, rng: random.Random, sink: Sink) -> None:
        self._source, self._clock, self._rng, self._sink = source, clock, rng, sink
        self._dscp = Dscp.parse(source.dscp)
        self._frame = 0
        # A key frame among the others leaves each of those less than its share.
        usual = source.mbit * 1e6 / FRAMES_A_SECOND * KEY_FRAME_EVERY / (KEY_FRAME_EVERY - 1 + KEY_FRAME)
        self._packets = usual / 8 / BULK_SIZE

    def tick(self, _: object) -> None:
        clock = self._clock
        clock.at(clock.now + 1 / FRAMES_A_SECOND, self.tick)
        size = self._packets * (0.7 + 0.6 * self._rng.random())
        if self._frame % KEY_FRAME_EVERY == 0:
            size *= KEY_FRAME
        self._frame += 1
        self._sink.offer(self._dscp, ceil(size), BULK_SIZE)
