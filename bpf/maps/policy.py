"""The policy table: what becomes of each inner class. Written here, applied by the kernel.

Two banks in one mmapped map; a change fills the idle bank and then flips `control.policy_bank`, so a packet sees the old
table or the new one and never a mixture. Before the idle bank is written, a grace period lets go the last packet that
could still be reading it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qosctl.bpf.abi import POLICY_BANKS, POLICY_ENTRY, PolicyAction
from qosctl.bpf.dscp import DSCP_COUNT, LE, Dscp
from qosctl.bpf.errors import UsageError
from qosctl.bpf.kernel.grace_period import wait_for_running_programs
from qosctl.bpf.maps.switch import Control

_BANK_BYTES = DSCP_COUNT * POLICY_ENTRY.size


@dataclass(frozen=True)
class Rule:
    """What becomes of one inner class: its outer DSCP, or None to leave the packet alone.

    `priority`, where given, is stored in skb->priority (0 to 2**32 - 1) for this machine's own queues.
    """

    outer: Dscp | None
    priority: int | None = None


class Policy(Mapping[Dscp, Rule]):
    """A complete table: a rule for each of the 64 classes. LE is never promoted (RFC 8622)."""

    def __init__(self, rules: Mapping[Dscp, Rule]) -> None:
        missing = [dscp for dscp in Dscp.all() if dscp not in rules]
        if missing:
            raise ValueError(f"no rule for {missing[0]}")
        promoted = rules[LE].outer
        if promoted is not None and promoted is not LE:
            raise UsageError(f"LE must not become {promoted}: it promises to yield (RFC 8622)", "LE=leave")
        self._rules = dict(rules)

    @classmethod
    def identity(cls) -> Policy:
        """Each class keeps its own DSCP."""
        return cls({dscp: Rule(dscp) for dscp in Dscp.all()})

    @classmethod
    def allow(cls, *allowed: Dscp) -> Policy:
        """Only these classes are marked; all others leave alone."""
        return cls({dscp: Rule(dscp if dscp in allowed else None) for dscp in Dscp.all()})

    def replaced(self, changes: Mapping[Dscp, Rule]) -> Policy:
        """Return this table with some rules changed."""
        return Policy({**self._rules, **changes})

    def __getitem__(self, dscp: Dscp) -> Rule:
        return self._rules[dscp]

    def __iter__(self) -> Iterator[Dscp]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)


class PolicyTable:
    """The mmapped `policy` map, together with the `control` map that says which half counts."""

    def __init__(self, fd: int, control: Control) -> None:
        self._mmap = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._control = control

    def read(self) -> Policy:
        """Return the table in force."""
        start = self._control.policy_bank * _BANK_BYTES
        entries = POLICY_ENTRY.iter_unpack(self._mmap[start : start + _BANK_BYTES])
        return Policy({dscp: _decode(*entry) for dscp, entry in zip(Dscp.all(), entries, strict=True)})

    def write(self, policy: Policy) -> None:
        """Put `policy` into force, for all tunnels at once. Callers hold the state's lock.

        OSError from the kernel, and then nothing has changed.
        """
        wait_for_running_programs()
        bank = (self._control.policy_bank + 1) % POLICY_BANKS
        table = b"".join(_encode(policy[dscp]) for dscp in Dscp.all())
        self._mmap[bank * _BANK_BYTES : (bank + 1) * _BANK_BYTES] = table
        self._control.policy_bank = bank

    def close(self) -> None:
        """Let go of the memory; the map itself lives on."""
        self._mmap.close()


def _encode(rule: Rule) -> bytes:
    action = PolicyAction.LEAVE if rule.outer is None else PolicyAction.STAMP
    outer = 0 if rule.outer is None else rule.outer.value
    return POLICY_ENTRY.pack(action, outer, rule.priority is not None, 0, rule.priority or 0)


def _decode(action: int, outer: int, set_priority: int, _reserved: int, priority: int) -> Rule:
    stamped = Dscp.of(outer) if action == PolicyAction.STAMP else None
    return Rule(stamped, priority if set_priority else None)
