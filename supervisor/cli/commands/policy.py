"""`qosctl policy [KEYWORD ...]`: the keywords are in devices/policy_keywords.py."""

from __future__ import annotations

import argparse
from typing import TextIO

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.supervisor.devices.policy import change_policy, policy
from qosctl.supervisor.devices.policy_keywords import KEYWORDS
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import document, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a verb, or nothing to show the table."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, keyword in KEYWORDS.items():
        verb = verbs.add_parser(name, help=keyword.help)
        verb.set_defaults(words=[])
        if keyword.numbers:
            verb.add_argument("words", nargs=1, type=int, choices=keyword.numbers)
        elif keyword.words:
            verb.add_argument("words", nargs="+", metavar=keyword.words, help=keyword.words_help or None)


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Change the table, or show it."""
    if arguments.verb is None:
        table = policy()
    else:
        table = change_policy(KEYWORDS[arguments.verb].change([str(word) for word in arguments.words]))
    if arguments.json:
        write_json(document(policy=[_rule_json(dscp, rule) for dscp, rule in table.items()]), out)
    elif arguments.verb is None:
        _print(table, out)
    return Exit.FINE


def _rule_json(dscp: Dscp, rule: Rule) -> dict[str, object]:
    return {
        "inner": dscp.name,
        "outer": None if rule.outer is None else rule.outer.name,
        "inner_dscp": dscp.value,
        "outer_dscp": None if rule.outer is None else rule.outer.value,
        "priority": rule.priority,
    }


def _print(table: Policy, out: TextIO) -> None:
    print(f"{'inner':<8}{'outer':<8}priority", file=out)
    for dscp, rule in table.items():
        if dscp.assigned:
            print(_row(dscp.name, rule), file=out)
    _print_unassigned({dscp: rule for dscp, rule in table.items() if not dscp.assigned}, out)


def _print_unassigned(rules: dict[Dscp, Rule], out: TextIO) -> None:
    """One line where all numbers without a name are treated alike, a line each otherwise."""
    own = all(rule.outer is dscp for dscp, rule in rules.items())
    priorities = {rule.priority for rule in rules.values()}
    kinds = set(rules.values())
    if own and len(priorities) == 1:
        print(f"{'others':<8}{'own':<8}{'' if None in priorities else priorities.pop()}".rstrip(), file=out)
    elif len(kinds) == 1:
        print(_row("others", kinds.pop()), file=out)
    else:
        for dscp, rule in rules.items():
            print(_row(dscp.name, rule), file=out)


def _row(name: str, rule: Rule) -> str:
    outer = "leave" if rule.outer is None else rule.outer.name
    return f"{name:<8}{outer:<8}{'' if rule.priority is None else rule.priority}".rstrip()
