"""The policy: the counterpart of `qosctl policy`. What becomes of each inner class, for all tunnels of the namespace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import UsageError, kernel_errors
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.bpf.maps.policy import Policy, Rule

_PRIORITY_MAX = 0xFFFFFFFF
_LEAVE = "leave"


def policy() -> Policy:
    """Return the policy in force; NotAttachedError where nothing is attached."""
    with kernel_errors("policy"), open_state() as state:
        return state.policy.read()


def change_policy(change: Callable[[Policy], Policy]) -> Policy:
    """Put `change(policy in force)` into force, atomically, and return it. No packet sees half of it.

    Raises what `change` raises, before anything is done; NotAttachedError, NoPermissionError, RefusedError.
    """
    with kernel_errors("policy"), bpffs.locked(), open_state() as state:
        new = change(state.policy.read())
        state.policy.write(new)
    return new


def parse_rules(words: Sequence[str]) -> Mapping[Dscp, Rule]:
    """Read rules like EF=EF, AF41=AF31, CS6=leave, EF=EF,priority=6; UsageError says what is wrong with which."""
    rules: dict[Dscp, Rule] = {}
    for word in words:
        inner, equals, rest = word.partition("=")
        outer, comma, option = rest.partition(",")
        if not equals or (comma and not option.startswith("priority=")):
            raise UsageError(f"{word!r} is not a rule", "EF=EF, AF41=AF31, CS6=leave or EF=EF,priority=6")
        dscp = parse_dscp(inner)
        if dscp in rules:
            raise UsageError(f"two rules for {dscp}")
        priority = _priority(option.removeprefix("priority=")) if comma else None
        if outer == _LEAVE and priority is not None:
            raise UsageError(f"{word!r}: a class that is left alone keeps its priority too")
        rules[dscp] = Rule(None if outer == _LEAVE else parse_dscp(outer), priority)
    return rules


def parse_dscp(text: str) -> Dscp:
    """Read a code point by name or number; UsageError."""
    try:
        return Dscp.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _priority(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= _PRIORITY_MAX:
        raise UsageError(f"{text!r} is not a priority: 0 to {_PRIORITY_MAX} (0 to 7 for most queues)")
    return value
