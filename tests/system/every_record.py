"""A load whose class changes from packet to packet, and the account of what the outer wire made of it.

The load is sent in rounds that fit the capture's buffer whole, so that the slow part, opening each record, never costs
a frame: the capture raises where it has missed one. What is compared with what, record by record:

    sent:  traffic class, also in the payload --> inner header, opened from the record --> outer header around the record
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qosctl.bpf.dscp import Dscp

from tests.lab import Connection, Namespace
from tests.lab.inside import Inside
from tests.lab.testbed import TUNNEL, Line
from tests.lab.wiretap import Record, Wiretap

FOUR_CLASSES = tuple(Dscp.parse(name) for name in ("DF", "AF11", "AF41", "EF"))
ALL_CLASSES = tuple(Dscp.all())

_ROUND = 20_000  # some 50 MB in the capture's buffer of 128
_BURST, _QUEUE = 128, 384  # of the 500 packets that a tunnel device has room for
_LONG_BYTES = 450  # of an inner packet
_LONGER_BYTES = 40  # by class: a batch has one length
_SHORT_ONE_IN, _SHORT_BYTES = 40, 32  # a record that is shorter ends its batch
_HEADERS = {4: 20 + 8, 6: 40 + 8}  # IP and UDP
_RECORD_BYTES = 13 + 8 + 16  # header, explicit nonce, tag
_MARK = b"load"
_NUMBER = slice(len(_MARK), len(_MARK) + 4)
_TRAFFIC_CLASS = _NUMBER.stop
_PAUSE_S = 0.0002
_EXAMPLES = 5
_STUCK_S = 30.0


class MixedLoad:
    """Datagrams of random DSCP, ECN and IP version. The payload begins with a number of its own and the traffic class.

    The device's queue never overflows: each packet sent is one to be found. Every second burst is queued while the
    client is stopped, so that it finds what makes batches however fast it is; the others meet it running.
    """

    def __init__(self, line: Line, client: Connection, inside: Inside, classes: Sequence[Dscp], seed: int) -> None:
        self._namespace = line.client
        self._client = client.process
        self._inside = inside
        self._classes = classes
        self._chance = random.Random(seed)
        self._last: Dscp | None = None
        self.changes = 0
        """Datagrams of another class than the one before."""
        self.sent = Counter[int]()
        """Datagrams by IP version."""

    def send(self, count: int) -> None:
        """Send that many."""
        target, taken = self.sent.total() + count, _taken(self._namespace) - self.sent.total()
        while (sent := self.sent.total()) < target:
            self._wait_until_taken(sent + _BURST - _QUEUE + taken)
            with self._stopped() if sent // _BURST % 2 else contextlib.nullcontext():
                for number in range(sent, min(sent + _BURST, target)):
                    self._send_one(number)
        self._wait_until_taken(target + taken)

    def _wait_until_taken(self, count: int) -> None:
        """Wait until the client has read so many packets. AssertionError when it does not get on."""
        seen, since = -1, time.monotonic()
        while (taken := _taken(self._namespace)) < count:
            if taken != seen:
                seen, since = taken, time.monotonic()
            assert time.monotonic() - since < _STUCK_S, f"the client has read {taken} packets and no more"
            time.sleep(_PAUSE_S)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        self._client.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._client.send_signal(signal.SIGCONT)

    def _send_one(self, number: int) -> None:
        chance = self._chance
        which = chance.randrange(len(self._classes))
        dscp, version = self._classes[which], chance.choice((4, 6))
        traffic_class = dscp.value << 2 | chance.getrandbits(2)
        size = _LONG_BYTES + _LONGER_BYTES * (which % 4) - (chance.randrange(_SHORT_ONE_IN) == 0) * _SHORT_BYTES
        payload = _MARK + number.to_bytes(4) + bytes([traffic_class])
        self._inside.send(payload.ljust(size - _HEADERS[version], b"\0"), traffic_class, version)
        self.sent[version] += 1
        self.changes += self._last is not dscp
        self._last = dscp


@dataclass
class Account:
    """What was found. A mistake is counted by its kind, once a record; `examples` has the first few."""

    records: int = 0
    """That carry an inner packet."""
    mistakes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    inner: Counter[Dscp] = field(default_factory=Counter)
    outer: Counter[Dscp] = field(default_factory=Counter)
    """Those records by DSCP, of the packet in them and of the datagram around them."""
    others: int = 0
    """Records that carry none: the handshake's, and the numbering's probes."""
    sends: int = 0
    """Calls that sent records of either kind; what is more than one for a record is batches."""
    changes: int = 0
    """Inner packets of another class than the one sent before."""
    seconds: float = 0.0
    """Under load; opening and comparing comes on top."""
    last: list[Record] = field(default_factory=list)
    """The records of the last round."""
    _packets: set[bytes] = field(default_factory=set)
    _numbers: set[int] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Judge one record."""
        frame, inner = record.frame, record.inner
        if inner is None or not _of_load(record):
            self.others += 1
            return
        self.records += 1
        self.inner[Dscp.of(inner.traffic_class >> 2)] += 1
        self.outer[Dscp.of(frame.dscp)] += 1
        packet, sent_class = inner.payload[_NUMBER], inner.payload[_TRAFFIC_CLASS]
        if frame.dscp != inner.traffic_class >> 2:
            self._mistake("DSCP", record)
        if frame.ecn != 0:
            self._mistake("ECN", record)
        if inner.traffic_class != sent_class:
            self._mistake("inner traffic class", record)
        if len(frame.payload) != len(record.plaintext) + _RECORD_BYTES:
            self._mistake("not alone in its datagram", record)
        if not frame.header_checksum_right:
            self._mistake("header checksum", record)
        if packet in self._packets:
            self._mistake("packet sent twice", record)
        if record.number in self._numbers:
            self._mistake("number used twice", record)
        self._packets.add(packet)
        self._numbers.add(record.number)

    @property
    def records_per_send(self) -> float:
        """How long batches are on average, single records counted as batches of one."""
        return (self.records + self.others) / self.sends

    @property
    def least_in_batches(self) -> float:
        """The share of records that left in one send with others, at the least: as if all sends but one had one record."""
        return 1 - 1 / self.records_per_send

    def __str__(self) -> str:
        mistakes = ", ".join(f"{count} x {kind}" for kind, count in self.mistakes.items())
        return (
            f"{self.records} records of {len(self.outer)} classes, {self.changes / self.records:.0%} of another than "
            f"the one before: {mistakes or 'no'} mistakes; {self.sends} sends, {self.records_per_send:.1f} records each, "
            f"at least {self.least_in_batches:.0%} in batches; {self.seconds:.0f} s of load"
        )

    def _mistake(self, kind: str, record: Record) -> None:
        self.mistakes[kind] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{kind}: {record}")


def account(
    line: Line,
    client: Connection,
    tap: Wiretap,
    inside: Inside,
    count: int,
    *,
    classes: Sequence[Dscp] = FOUR_CLASSES,
    seed: int = 1,
) -> Account:
    """Send `count` packets through the tunnel that is up and judge every record that carries one.

    AssertionError when a packet does not come out in a record, LabError when the capture has missed a frame.
    """
    load, found = MixedLoad(line, client, inside, classes, seed), Account()
    tap.forget()
    for start in range(0, count, _ROUND):
        before, sent_before, began = _datagrams_sent(line.client), load.sent.copy(), time.monotonic()
        wanted = min(_ROUND, count - start)
        load.send(wanted)
        found.seconds += time.monotonic() - began
        found.last = _wait_for(tap, wanted)
        for version, total in _datagrams_sent(line.client).items():
            found.sends += total - before[version] - (load.sent - sent_before)[version]
        for record in found.last:
            found.add(record)
        tap.forget()
    found.changes = load.changes
    return found


def _wait_for(tap: Wiretap, wanted: int) -> list[Record]:
    """Return all records once exactly `wanted` of the load are among them."""

    def of_load(records: list[Record]) -> int:
        return sum(_of_load(record) for record in records)

    found = tap.wait_for(tap.sent, lambda records: of_load(records) >= wanted, timeout=30)
    assert of_load(found) == wanted
    return found


def _of_load(record: Record) -> bool:
    return record.inner is not None and record.inner.payload.startswith(_MARK)


def _datagrams_sent(namespace: Namespace) -> dict[int, int]:
    """Return how often UDP was told to send, by IP version: a batch (UDP_SEGMENT) counts as one."""
    names, values = (row.split() for row in namespace.read("/proc/net/snmp").splitlines() if row.startswith("Udp:"))
    six = dict(row.split() for row in namespace.read("/proc/net/snmp6").splitlines())
    return {4: int(values[names.index("OutDatagrams")]), 6: int(six["Udp6OutDatagrams"])}


def _taken(namespace: Namespace) -> int:
    """Return how many packets the client has taken from its tunnel device."""
    (row,) = (row.split() for row in namespace.read("/proc/net/dev").splitlines() if f"{TUNNEL}:" in row)
    return int(row[10])
