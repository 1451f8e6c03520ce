"""The keywords of a policy: what `qosctl policy KEYWORD` takes, and `KEYWORD = ...` under [policy] in the configuration.

The one place that has them. The command's verbs, the configuration's keys and their errors are made from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.maps.folding import FOLDS, fold
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.maps.wifi import wifi
from qosctl.supervisor.devices.policy import parse_dscp, parse_rules

Change = Callable[[Policy], Policy]
"""Makes the policy to be of the one in force."""


@dataclass(frozen=True)
class Keyword:
    """One way to say what becomes of the classes.

    `change` reads the words behind it; UsageError says what is wrong with which. `words` is what they are called, empty
    where there are none (a file says `true` then); `numbers` are all that are allowed where it is a single number.
    """

    help: str
    change: Callable[[Sequence[str]], Change]
    words: str = ""
    words_help: str = ""
    numbers: Sequence[int] = ()
    whole: bool = True
    """It says all of the policy: two such keywords contradict each other. Others make exceptions, and come behind."""
    configurable: bool = True


def _fold(words: Sequence[str]) -> Change:
    folded = fold(int(words[0]))
    return lambda _: folded


def _allow(words: Sequence[str]) -> Change:
    allowed = Policy.allow(*map(parse_dscp, words))
    return lambda _: allowed


def _wifi(_: Sequence[str]) -> Change:
    return lambda _: wifi()


def _set(words: Sequence[str]) -> Change:
    rules = parse_rules(words)
    return lambda before: before.replaced(rules)


def _reset(_: Sequence[str]) -> Change:
    return lambda _: Policy.identity()


KEYWORDS: Mapping[str, Keyword] = {
    "fold": Keyword("let only so many kinds of marks out, besides LE (RFC 5127)", _fold, numbers=FOLDS),
    "allow": Keyword("mark these classes with their own DSCP and leave all others alone", _allow, "DSCP"),
    "wifi": Keyword("each class its own DSCP, and its queue of this machine's own Wi-Fi (RFC 8325)", _wifi),
    "set": Keyword(
        "change the rules of some classes: EF=EF AF41=AF31 CS6=leave EF=EF,priority=6",
        _set, "INNER=OUTER[,priority=N]", "OUTER is a DSCP, or `leave`", whole=False,
    ),
    "reset": Keyword("each class keeps its own DSCP", _reset, configurable=False),  # what a file says without a keyword
}  # fmt: skip
CONFIGURABLE: Mapping[str, Keyword] = {name: keyword for name, keyword in KEYWORDS.items() if keyword.configurable}
