"""The program beside its reference: the same packet to both, and everything compared.

Output bytes, verdict, skb->priority, the outcome's counter and the class counters must agree, packet by packet: the
expected counters are kept in Python, and the kernel's whole counter memory is compared with them after each run.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from qosctl.bpf.abi import DEVICE_COUNTERS, OUTCOME_SLOTS, POLICY_BANKS, POLICY_ENTRY, RING_WORDS, WORD
from qosctl.bpf.dscp import DSCP_COUNT
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.outcome import Outcome

from tests.bpf.program.reference import Expected, Maps, expect
from tests.lab.program import FLOW4, FLOW6, UNSPEC, Kernel, own, sk_buff

PACKET_MAX = 4096
_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOOKUP, _TEST_RUN = 1, 10
_EINVAL = 22
_CONTEXT_BYTES = len(sk_buff())
_PRIORITY = struct.Struct("=I")
_PRIORITY_AT = 32
_ANSWER = struct.Struct("=II4xI")  # of union bpf_attr for a test run: verdict, (size in), size out
_POLICY_COUNT = POLICY_BANKS * DSCP_COUNT


@dataclass(frozen=True)
class Context:
    """What comes with a packet: fields of struct __sk_buff. `wire_len` 0 stands for the packet's own length."""

    gso_size: int = 0
    gso_segs: int = 0
    wire_len: int = 0
    priority: int = 0


PLAIN = Context()


class DisagreementError(AssertionError):
    """Program and reference differ."""


class _Runner:
    """BPF_PROG_TEST_RUN with buffers made once."""

    def __init__(self) -> None:
        self._packet_in = (ctypes.c_char * PACKET_MAX)()
        self._packet_out = (ctypes.c_char * (PACKET_MAX + 256))()
        self._context_in = (ctypes.c_char * _CONTEXT_BYTES)()
        self._context_out = (ctypes.c_char * _CONTEXT_BYTES)()
        self._attr = (ctypes.c_char * 80)()
        self._out = memoryview(self._packet_out).cast("B")
        libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = libc.syscall
        self._syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
        self._number = _SYSCALL[platform.machine()]
        self._layout = struct.Struct("=IIIIQQIIIIQQIII4x")

    def run(self, program: int, packet: bytes, context: bytes) -> tuple[int, bytes, int] | None:
        """Return verdict, packet and priority, or None where the kernel would not make an skb of it."""
        ctypes.memmove(self._packet_in, packet, len(packet))
        ctypes.memmove(self._context_in, context, _CONTEXT_BYTES)
        self._layout.pack_into(
            self._attr, 0, program, 0, len(packet), PACKET_MAX + 256,
            ctypes.addressof(self._packet_in), ctypes.addressof(self._packet_out), 1, 0, _CONTEXT_BYTES, _CONTEXT_BYTES,
            ctypes.addressof(self._context_in), ctypes.addressof(self._context_out), 0, 0, 0,
        )  # fmt: skip
        if self._syscall(self._number, _TEST_RUN, self._attr, 80) < 0:
            if ctypes.get_errno() == _EINVAL:
                return None
            raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN")
        verdict, _in, size = struct.unpack_from("=III", self._attr, 4)
        (priority,) = _PRIORITY.unpack_from(self._context_out, _PRIORITY_AT)
        return verdict, self._out[:size].tobytes(), priority


class _Counters:
    """The kernel's counter memory of this CPU, and what it must be."""

    def __init__(self, fd: int, cpu: int) -> None:
        cpus = os.sysconf("SC_NPROCESSORS_CONF")
        self._actual = bytearray(DEVICE_COUNTERS.size * cpus)
        self._key = (ctypes.c_char * 4)()
        self._value = (ctypes.c_char * len(self._actual)).from_buffer(self._actual)
        self._attr = struct.pack("=I4xQQQ", fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = libc.syscall
        self._syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        self._number = _SYSCALL[platform.machine()]
        self._read()
        self._expected = bytearray(self._actual)
        self._words = memoryview(self._expected).cast("Q")
        self._base = cpu * DEVICE_COUNTERS.size // WORD.size

    def _read(self) -> None:
        if self._syscall(self._number, _LOOKUP, self._attr, len(self._attr)) < 0:
            raise OSError(ctypes.get_errno(), "the counters cannot be read")

    def advance(self, expected: Expected, segments: int, wire_len: int) -> bool:
        """Count what was expected; say whether the kernel did the same and nothing else."""
        self._words[self._base + expected.outcome] += segments
        if expected.outer is not None:
            at = self._base + OUTCOME_SLOTS + 2 * expected.outer
            self._words[at] += segments
            self._words[at + 1] += wire_len
        self._read()
        return self._actual == self._expected

    def counted(self) -> list[str]:
        """The outcomes that the kernel counted and nobody expected."""
        actual = memoryview(self._actual).cast("Q")
        return [o.name for o in Outcome if actual[self._base + o] != self._words[self._base + o]]


class Differential:
    """A loaded program whose maps are mirrored here; change them through this object only.

    The flows get two rings: one for `more` and FLOW4, entered in this order, one for FLOW6.
    """

    def __init__(self, kernel: Kernel, cpu: int, more: Sequence[FlowKey] = ()) -> None:
        self._kernel = kernel
        self._runner = _Runner()
        self._counters = _Counters(kernel.counters_fd, cpu)
        self._contexts: dict[Context, bytes] = {}
        self.rings = (kernel.ring, Ring(own("tun-other")))
        flows = {**dict.fromkeys(more, self.rings[0]), FLOW4: self.rings[0], FLOW6: self.rings[1]}
        for key in (FLOW4, FLOW6):
            kernel.state.flows.remove(key)  # so that `more` may take their places first
        for key, ring in flows.items():
            kernel.state.flows.add(key, ring)
        fd = syscall.obj_get(str(folder() / "policy"))
        self._policy = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)
        self._words = tuple([0] * RING_WORDS for _ in self.rings)
        mirror = {id(ring): words for ring, words in zip(self.rings, self._words, strict=True)}
        found = {key.pack(): mirror[id(ring)] for key, ring in flows.items()}
        self.maps = Maps(passtos=True, bank=0, policy=[(0, 0, 0, 0)] * _POLICY_COUNT, flows=found)
        for ring in self.rings:
            ring.marks[:] = memoryview(bytes(ring.marks.nbytes)).cast("Q")
        self.set_policy([(1, n % DSCP_COUNT, 0, 0) for n in range(_POLICY_COUNT)])
        self.set_control(passtos=True, bank=0)
        self.ran: dict[Outcome, int] = dict.fromkeys(Outcome, 0)

    def set_word(self, ring: int, number: int, word: int) -> None:
        """Store a word into the place of record `number`."""
        self.rings[ring].marks[number % RING_WORDS] = word
        self._words[ring][number % RING_WORDS] = word

    def set_policy(self, entries: Sequence[tuple[int, int, int, int]]) -> None:
        """Fill both banks with (action, outer, set_priority, priority), sense or nonsense."""
        self.maps.policy = list(entries)
        raw = b"".join(POLICY_ENTRY.pack(action, outer, flag, 0xA5, value) for action, outer, flag, value in entries)
        self._policy[: len(raw)] = raw

    def set_control(self, *, passtos: bool, bank: int) -> None:
        """Turn the switch and choose the bank."""
        self._kernel.state.control.passtos = passtos
        self._kernel.state.control.policy_bank = bank
        self.maps.passtos, self.maps.bank = passtos, bank

    def check(self, packet: bytes, *, ethernet: bool = True, context: Context = PLAIN) -> Outcome | None:
        """Run both and compare; the outcome, or None for a packet that no skb can be made of."""
        raw = self._contexts.get(context)
        if raw is None:
            raw = self._contexts[context] = sk_buff(
                gso_size=context.gso_size, gso_segs=context.gso_segs, wire_len=context.wire_len, priority=context.priority
            )
        ran = self._runner.run(self._kernel.programs[ethernet], packet, raw)
        if ran is None:
            if packet[12:14] not in (b"\x08\x00", b"\x86\xdd") or len(packet) >= 54:
                raise DisagreementError(f"the kernel refused {packet.hex()} with {context}")
            return None
        wanted = expect(packet, self.maps, ethernet=ethernet, gso_size=context.gso_size, priority=context.priority)
        agreed = ran == (UNSPEC, wanted.packet, wanted.priority)
        counted = self._counters.advance(wanted, context.gso_segs or 1, context.wire_len or len(packet))
        if not agreed or not counted:
            raise DisagreementError(
                f"packet {packet.hex()}\n{context}, {'ethernet' if ethernet else 'raw'}\nexpected {wanted}\n"
                f"verdict, packet, priority: {ran[0]:#x}, {ran[1].hex()}, {ran[2]}\n"
                f"counted otherwise: {self._counters.counted()}"
            )
        self.ran[wanted.outcome] += 1
        return wanted.outcome

    def close(self) -> None:
        """Give back the second ring and the mapping."""
        self.rings[1].close()
        self._policy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def on_one_cpu() -> Iterator[int]:
    """Stay on one CPU, so that one CPU's counters tell all; yields which."""
    allowed = os.sched_getaffinity(0)
    cpu = random.choice(sorted(allowed))
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)
