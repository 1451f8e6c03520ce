"""One run: a case in, what became of every class out, beside what plain numbering would have lost.

THE LAW: of no class does the receiver drop more records as replays than it would with consecutive numbers.

Both are judged on the same arrivals. The server sees each record once, at one time; it keeps two windows, one for the
numbers that the records have and one for the numbers that plain numbering gives the same records. So the two inputs
cannot differ by chance, nor by what a flow makes of a loss. (Probes are in the path of both, but only in the window of
the numbering that sends them.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.probing import ProbingNumbering
from qosctl.dtls.replaysafe import ReplaySafeNumbering

from tests.simulator.case import CLASSES, Case, Server
from tests.simulator.client import Client
from tests.simulator.clock import Clock, Record
from tests.simulator.link import Link
from tests.simulator.traffic import begin


class Window:
    """A receiver's replay window: drops what is `width` or more below the highest number that it has accepted.

    RFC 6347 section 4.1.2.6. No record arrives twice here, so there is no memory of single numbers.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.highest = -1

    def accept(self, number: int) -> bool:
        """Judge an arrival, and move the window."""
        if number > self.highest:
            self.highest = number
            return True
        return self.highest - number < self.width


@dataclass
class Fate:
    """What became of one class's records, without probes."""

    arrived: int = 0
    replayed: int = 0
    """Dropped by the server for their numbers."""
    plain_replayed: int = 0
    """The same, had they been numbered plainly."""
    queue_dropped: int = 0
    path_lost: int = 0

    @property
    def excess(self) -> int:
        """Records by which it is worse off than with plain numbers; the law says 0 or less."""
        return self.replayed - self.plain_replayed


@dataclass
class Outcome:
    """What a run showed, from its first record on."""

    case: Case
    classes: dict[str, Fate] = field(default_factory=lambda: {name: Fate() for name in CLASSES})
    probes: int = 0
    probes_replayed: int = 0
    suspected: int = 0
    """Records that the numbering believes to be dropped."""
    records: int = 0
    numbers: int = 0
    """Different numbers among those; as many as records, or the cipher is broken."""

    @property
    def violations(self) -> dict[str, int]:
        """The classes that are worse off than with plain numbers, and by how many records."""
        return {name: fate.excess for name, fate in self.classes.items() if fate.excess > 0}

    @property
    def urgent_excess(self) -> int:
        """Records by which the classes above DF are worse off, each by itself."""
        return sum(max(0, fate.excess) for name, fate in self.classes.items() if name != "DF")

    @property
    def replayed(self) -> int:
        """All records that the server dropped for their numbers, probes too."""
        return sum(fate.replayed for fate in self.classes.values()) + self.probes_replayed


class Receiver:
    """The server: two windows, echoes, acknowledgements."""

    def __init__(self, server: Server, case: Case, clock: Clock, rng: random.Random, outcome: Outcome) -> None:
        self._server, self._clock, self._rng = server, clock, rng
        self._fates = {Dscp.parse(name): fate for name, fate in outcome.classes.items()}
        self._outcome = outcome
        self._window, self._plain = Window(server.window), Window(server.window)
        self._back = case.path.round_trip_ms / 2000
        self._stops_at = self._goes_on_at = 0.0
        self.echoed: Callable[[int], None]

    def receive(self, record: Record, now: float) -> None:
        """Judge a record that arrives at `now`, which is not the clock's time."""
        accepted = self._window.accept(record.number)
        if record.probe:
            if accepted:
                self._echo(record.probe, now)
            else:
                self._outcome.probes_replayed += 1
            return
        fate = self._fates[record.dscp]
        fate.arrived += 1
        if not self._plain.accept(record.plain):
            fate.plain_replayed += 1
        if not accepted:
            fate.replayed += 1
        elif record.flow is not None:
            self._clock.at(now + self._back, record.flow.acknowledged, (record.serial, record.sent))

    def lost(self, record: Record, queue: bool) -> None:
        """Count a record that does not arrive."""
        if record.probe:
            return
        fate = self._fates[record.dscp]
        if queue:
            fate.queue_dropped += 1
        else:
            fate.path_lost += 1

    def _echo(self, probe: int, now: float) -> None:
        server, rng = self._server, self._rng
        if server.mute or rng.random() < server.echo_loss:
            return
        if server.stop_ms:
            while now > self._goes_on_at:
                self._stops_at = self._goes_on_at + rng.expovariate(5.0)
                self._goes_on_at = self._stops_at + rng.random() * server.stop_ms / 1000
            if now > self._stops_at:
                now = self._goes_on_at
        self._clock.at(now + self._back + rng.random() * server.echo_late_ms / 1000, self.echoed, probe)


def run(case: Case, make: Callable[[], ProbingNumbering] = ReplaySafeNumbering) -> Outcome:
    """Run a case with a fresh numbering."""
    outcome = Outcome(case)
    clock = Clock()

    def chance(of: str) -> random.Random:
        return random.Random(f"{case.seed} {of}")

    receiver = Receiver(case.server, case, clock, chance("server"), outcome)
    link = Link(case.path, clock, chance("path"), receiver.receive, receiver.lost)
    client = Client(make(), case.machine, clock, chance("machine"), link)
    receiver.echoed = client.echoed
    for index, source in enumerate(case.sources):
        begin(source, clock, chance(f"source {index}"), client)
    clock.run(case.seconds, link.advance)
    outcome.probes = client.probes
    outcome.records, outcome.numbers = client.records, len(client.numbers)
    outcome.suspected = client.numbering.snapshot(case.seconds).suspected_replay_losses
    return outcome
