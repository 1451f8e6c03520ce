"""The shapes that nouns print with --json: `schema_version` first, stable keys, raw integers."""

from __future__ import annotations

import json
from typing import Any, TextIO

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import QosctlError
from qosctl.bpf.flow_page.by_dscp import ClassUse
from qosctl.bpf.flow_page.statistics import RECONNECTS, Statistic, cases_of
from qosctl.bpf.flow_page.tunnel_state import TunnelState, state_name
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.flows import Flow
from qosctl.supervisor.output.exit_codes import exit_for

SCHEMA_VERSION = 1
_CHANNELS: dict[int, str] = {TunnelState.TLS: "tls", TunnelState.DTLS: "dtls"}

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
    """One flow, its owner, and what the owner says: how it is, what each class has carried, and all statistics."""
    return {
        "local": {"address": flow.key.local[0], "port": flow.key.local[1]},
        "remote": {"address": flow.key.remote[0], "port": flow.key.remote[1]},
        "owner": {
            "pid": flow.owner.pid,
            "alive": flow.alive,
            "tunnel": flow.owner.tunnel,
            "server": flow.owner.server,
            "created_unix_ns": flow.owner.created,
        },
        "state": state_name(flow.statistics[Statistic.STATE]),
        "state_since_unix_s": flow.statistics[Statistic.STATE_SINCE_S],
        "channel": channel_of(flow),
        "cipher": flow.suite or None,
        "reconnects": {reason: flow.statistics[statistic] for reason, statistic in cases_of(RECONNECTS).items()},
        "classes": {dscp.name: _class_json(dscp, use) for dscp, use in flow.classes.items()},
        "statistics": {statistic.label: flow.statistics[statistic] for statistic in Statistic},
    }


def channel_of(flow: Flow) -> str | None:
    """Return what carries the packets, None where nothing does."""
    return _CHANNELS.get(flow.statistics[Statistic.STATE])


def _class_json(dscp: Dscp, use: ClassUse) -> Json:
    queued = use.queued
    return {
        "dscp": dscp.value,
        "sent": {"packets": use.packets_sent, "bytes": use.bytes_sent},
        "received": {"packets": use.packets_received, "bytes": use.bytes_received},
        "backlog": None if queued is None else {"records": queued.records, "milliseconds": queued.microseconds / 1000},
    }
