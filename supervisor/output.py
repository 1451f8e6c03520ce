"""The shapes that nouns print with --json: `schema_version` first, stable keys, raw integers."""

from __future__ import annotations

import json
from typing import Any, TextIO

from qosctl.bpf.counters import DeviceCounters
from qosctl.bpf.errors import QosctlError
from qosctl.bpf.flows import Flow

from .exits import exit_for

SCHEMA_VERSION = 1

Json = dict[str, Any]


def document(**fields: Any) -> Json:
    """Begin a document."""
    return {"schema_version": SCHEMA_VERSION, **fields}


def write_json(value: Json, out: TextIO) -> None:
    """Write one document."""
    json.dump(value, out, indent=2)
    out.write("\n")


def error_document(error: QosctlError) -> Json:
    """Return what a command with --json prints in place of its result."""
    return document(error={"message": error.message, "hint": error.hint, "exit_code": int(exit_for(error))})


def counters_json(counters: DeviceCounters) -> Json:
    """Outcomes by name, and traffic by outer DSCP, classes that were seen only."""
    return {
        "outcomes": {outcome.label: count for outcome, count in counters.outcomes.items()},
        "outer": {
            dscp.name: {"dscp": dscp.value, "packets": traffic.packets, "bytes": traffic.bytes}
            for dscp, traffic in counters.outer.items()
            if traffic.packets
        },
    }


def flow_json(flow: Flow) -> Json:
    """One flow, its owner and the owner's statistics."""
    return {
        "local": {"address": flow.key.local[0], "port": flow.key.local[1]},
        "remote": {"address": flow.key.remote[0], "port": flow.key.remote[1]},
        "owner": {
            "pid": flow.owner.pid,
            "alive": flow.owner.alive,
            "tunnel": flow.owner.tunnel,
            "server": flow.owner.server,
            "created_unix_ns": flow.owner.created,
        },
        "statistics": {statistic.label: value for statistic, value in flow.statistics.items()},
    }
