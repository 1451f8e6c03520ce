"""Packets from a seed: whole ones, mutated ones and noise, and maps that hold sense and nonsense for them.

Everything comes from one `random.Random`, so a seed and a position name a packet for good.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Sequence

from qosctl.bpf.abi import POLICY_BANKS, RING_WORDS, mark_word
from qosctl.bpf.dscp import DSCP_COUNT, Dscp

from tests.bpf.program.differential import PLAIN, Context, Differential
from tests.bpf.program.table import ETHERNET_SHAPES, LEFT_ALONE, NUMBER, RAW_SHAPES
from tests.lab.packets import CLIENT4, frame, ipv4, ipv6, record, udp

Packet = tuple[bytes, bool, Context]

# Record numbers that packets carry and rings know; the first takes the second's place in the ring now and then.
_HOT = (NUMBER + RING_WORDS, NUMBER, NUMBER + 1, 0, 1, 0xFF << 48 | 5, 0xFFFF_FFFF_FFFF_FFFF, 1 << 48)
_SOURCE = ipaddress.ip_address(CLIENT4).packed
_NUMBER_BYTES = NUMBER.to_bytes(8)
_LONG = 300  # bytes; longer base packets are rare enough as they are
_HEADERS = 110  # bytes in which mutations matter most
_LIMIT = 2048


class Generator:
    """An endless stream of packets; `real` are further frames to mutate, as (bytes, whether Ethernet)."""

    def __init__(self, seed: int, real: Sequence[tuple[bytes, bool]] = ()) -> None:
        self._random = random.Random(seed)
        self._bases = [*_table(), *real]
        self._contexts = [PLAIN] * 30 + [
            Context(gso_size, gso_segs, wire_len, priority)
            for gso_size in (0, 1, 12, 13, 37, 38, 1400, 65535)
            for gso_segs in (0, 1, 3, 64)
            for wire_len in (0, 3000)
            for priority in (0, 7)
        ]
        self._mutations: tuple[Callable[[bytearray], None], ...] = (
            self._any_byte, self._any_byte, self._flip_bit, self._flip_bit, self._word, self._word, self._cut,
            self._grow, self._splice, self._number, self._number, self._checksum,
        )  # fmt: skip

    def packet(self) -> Packet:
        """Return the next packet, whether it goes to the program for Ethernet devices, and its context."""
        r = self._random.random
        base, ethernet = self._bases[int(r() * len(self._bases))]
        packet = bytearray(base)
        chance = r()
        if chance < 0.02:
            packet = bytearray(self._random.randbytes(14 + int(r() * 150)))
        elif chance < 0.85:
            for _ in range(1 if chance < 0.4 else 2 if chance < 0.65 else 3 + int(r() * 6)):
                self._mutations[int(r() * len(self._mutations))](packet)
        if len(packet) < 14:
            packet += bytes(14 - len(packet))
        if r() < 0.02:
            ethernet = not ethernet
        context = self._contexts[int(r() * len(self._contexts))] if r() < 0.3 else PLAIN
        return bytes(packet[:_LIMIT]), ethernet, context

    def stir(self, world: Differential) -> None:
        """Change switch, policy and marks."""
        r = self._random
        bank = r.randrange(POLICY_BANKS) if r.random() < 0.9 else r.getrandbits(32)
        world.set_control(passtos=r.random() > 0.04, bank=bank)
        world.set_policy([self._policy_entry() for _ in range(POLICY_BANKS * DSCP_COUNT)])
        for ring in range(len(world.rings)):
            for number in _HOT[:1] if r.random() < 0.1 else _HOT:
                world.set_word(ring, number, self._mark(number))

    def _policy_entry(self) -> tuple[int, int, int, int]:
        r = self._random
        if r.random() < 0.1:
            return r.getrandbits(8), r.getrandbits(8), r.getrandbits(8), r.getrandbits(32)
        return int(r.random() < 0.85), r.randrange(DSCP_COUNT), int(r.random() < 0.3), r.getrandbits(4)

    def _mark(self, number: int) -> int:
        r = self._random
        chance = r.random()
        if chance < 0.8:
            return mark_word(number, Dscp.of(r.randrange(DSCP_COUNT)))
        if chance < 0.85:
            return 0
        if chance < 0.9:
            return mark_word(number, Dscp.of(0)) | r.getrandbits(8)
        return r.getrandbits(64)

    def _any_byte(self, packet: bytearray) -> None:
        packet[self._place(packet)] = self._random.getrandbits(8)

    def _flip_bit(self, packet: bytearray) -> None:
        packet[self._place(packet)] ^= 1 << self._random.getrandbits(3)

    def _word(self, packet: bytearray) -> None:
        """Sixteen bits of what lengths and protocol numbers go wrong with."""
        at = self._place(packet) & ~1
        here = int.from_bytes(packet[at : at + 2])
        values = (0, 0xFFFF, here + 1, here - 1, here ^ 0x2000, len(packet), 0x0800, 0x86DD, 0x8100, 0x88A8, 0x8864, 0x0021)
        value = values[int(self._random.random() * len(values))]
        packet[at : at + 2] = (value & 0xFFFF).to_bytes(2)

    def _cut(self, packet: bytearray) -> None:
        del packet[int(self._random.random() * (len(packet) + 1)) :]
        if not packet:
            packet.append(0)

    def _grow(self, packet: bytearray) -> None:
        packet += self._random.randbytes(1 + self._random.getrandbits(4))

    def _splice(self, packet: bytearray) -> None:
        """Bytes of another packet, from the same place on or from anywhere."""
        other, _ = self._bases[int(self._random.random() * len(self._bases))]
        at = self._place(packet)
        start = at if self._random.random() < 0.5 else int(self._random.random() * len(other))
        size = 1 + int(self._random.random() * 40)
        packet[at : at + size] = other[start : start + size]
        if not packet:
            packet.append(0)

    def _number(self, packet: bytearray) -> None:
        at = packet.find(_NUMBER_BYTES)
        if at >= 0:
            packet[at : at + 8] = _HOT[int(self._random.random() * len(_HOT))].to_bytes(8)

    def _checksum(self, packet: bytearray) -> None:
        """A checksum that a change of the DSCP brings to the ends of its range, where carries show."""
        at = packet.find(_SOURCE) - 2  # the field before the source address
        if at >= 0:
            low = self._random.getrandbits(6) * 4 - self._random.getrandbits(1)
            packet[at : at + 2] = bytes([0xFF * self._random.getrandbits(1), low & 0xFF])

    def _place(self, packet: bytearray) -> int:
        return int(self._random.random() * min(len(packet), _HEADERS))


def _table() -> list[tuple[bytes, bool]]:
    """Every packet of the specification, those that are stamped more often, and batches."""
    tables = ((True, ETHERNET_SHAPES), (False, RAW_SHAPES))
    bases = [(shape(0xB9), ethernet) for ethernet, shapes in tables for shape in shapes.values()]
    bases += [base for base in bases if len(base[0]) < _LONG] * 3
    bases += [(left.packet, left.ethernet) for left in LEFT_ALONE.values()]
    batch = udp(b"".join(record(NUMBER + n) for n in range(4)))
    return [*bases, (frame(ipv4(batch)), True), (frame(ipv6(batch)), True)]
