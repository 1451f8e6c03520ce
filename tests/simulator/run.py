"""One run: a case in, what became of every class out, beside what plain numbering would have lost.

THE LAW: of no class does the receiver drop more records as replays than it would with consecutive numbers.

Both are judged on the same arrivals. The server sees each record once, at one time; it keeps a window for the numbers that
the records have, and one for the numbers that plain numbering gives the same records. So the two inputs cannot differ by
chance, nor by what a flow makes of a loss. The same records: probes are among them. A third window knows plain numbers
without any probe, for those who want to know what probes cost: each takes a number, and so a place in a window.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.numbering.probe import ProbingNumbering
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering

from tests.simulator.case import CLASSES, Case
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
    bare_replayed: int = 0
    """The same without probes."""
    queue_dropped: int = 0
    path_lost: int = 0

    @property
    def excess(self) -> int:
        """Records by which it is worse off than with plain numbers; the law says 0 or less."""
        return self.replayed - self.plain_replayed


@dataclass
class Outcome:
    """What a run showed. `suspected` and `probes_replayed` are of the whole run."""

    case: Case
    classes: dict[str, Fate] = field(default_factory=lambda: {name: Fate() for name in CLASSES})
    probes: int = 0
    probes_replayed: int = 0
    suspected: int = 0
    """Records that the numbering believes to be dropped."""
    records: int = 0
    numbers: int = 0
    """Different numbers among those; as many as records, or the cipher is broken."""
    error: str = ""
    """What the numbering raised: the run ended there."""

    @property
    def violations(self) -> dict[str, int]:
        """The classes that are worse off than with plain numbers, and by how many records."""
        return {name: fate.excess for name, fate in self.classes.items() if fate.excess > 0}

    @property
    def costs_of_probes(self) -> bool:
        """Whether some class is worse off than with plain numbers and no probes, though not than with the same records."""
        return not self.violations and any(fate.replayed > fate.bare_replayed for fate in self.classes.values())

    @property
    def guilty(self) -> bool:
        """Whether the numbering broke the law, used a number twice, or raised an error."""
        return bool(self.violations or self.error or self.numbers != self.records)

    @property
    def urgent_excess(self) -> int:
        """Records by which the classes above DF are worse off, each by itself."""
        return sum(max(0, fate.excess) for name, fate in self.classes.items() if name != "DF")

    def replay_loss(self, name: str) -> float:
        """Return the share of a class's arrived records that the server dropped for their numbers, in per cent."""
        fate = self.classes[name]
        return 100 * fate.replayed / max(1, fate.arrived)

    @property
    def replayed(self) -> int:
        """All records that the server dropped for their numbers, probes too."""
        return sum(fate.replayed for fate in self.classes.values()) + self.probes_replayed


class Receiver:
    """The server: two windows, echoes, acknowledgements."""

    def __init__(self, case: Case, clock: Clock, rng: random.Random, outcome: Outcome) -> None:
        self._server, self._clock, self._rng = case.server, clock, rng
        self._fates = {Dscp.parse(name): fate for name, fate in outcome.classes.items()}
        self._outcome = outcome
        self._window, self._plain, self._bare = (Window(case.server.window) for _ in range(3))
        self._count_from = case.count_from_s
        self._back = case.path.round_trip_ms / 2000
        self._stops_at = self._goes_on_at = 0.0
        self.echoed: Callable[[int], None]

    def receive(self, record: Record, now: float) -> None:
        """Judge a record that arrives at `now`, which is not the clock's time."""
        accepted, plainly = self._window.accept(record.number), self._plain.accept(record.plain)
        if record.probe:
            if accepted:
                self._echo(record.probe, now)
            else:
                self._outcome.probes_replayed += 1
            return
        barely = self._bare.accept(record.bare)
        if record.sent >= self._count_from:
            fate = self._fates[record.dscp]
            fate.arrived += 1
            fate.replayed += not accepted
            fate.plain_replayed += not plainly
            fate.bare_replayed += not barely
        if accepted and record.flow is not None:
            self._clock.at(now + self._back, record.flow.acknowledged, (record.serial, record.sent))

    def lost(self, record: Record, queue: bool) -> None:
        """Count a record that does not arrive."""
        if record.probe or record.sent < self._count_from:
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


class World:
    """A case set up: traffic, client, path and server, joined."""

    def __init__(self, case: Case, numbering: ProbingNumbering) -> None:
        self.case, self.numbering = case, numbering
        self.clock = clock = Clock()
        self.outcome = Outcome(case)
        receiver = Receiver(case, clock, self._chance("server"), self.outcome)
        self._link = Link(case.path, clock, self._chance("path"), receiver.receive, receiver.lost)
        self._client = Client(numbering, case.machine, clock, self._chance("machine"), self._link)
        receiver.echoed = self._client.echoed
        for index, source in enumerate(case.sources):
            begin(source, clock, self._chance(f"source {index}"), self._client)

    def run(self) -> Outcome:
        """Run to the case's end."""
        self.clock.run(self.case.seconds, self._link.advance)
        outcome, client = self.outcome, self._client
        outcome.probes, outcome.records, outcome.numbers = client.probes, client.records, len(client.numbers)
        outcome.suspected = self.numbering.snapshot(self.case.seconds).suspected_replay_losses
        return outcome

    def _chance(self, of: str) -> random.Random:
        """Each part has a generator of its own, so that what one does changes nothing for another."""
        return random.Random(f"{self.case.seed} {of}")


def run(case: Case, make: Callable[[], ProbingNumbering] = ReplaySafeNumbering) -> Outcome:
    """Run a case with a fresh numbering."""
    return World(case, make()).run()
