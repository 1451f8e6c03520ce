"""What a command may leave behind in a network namespace, and must not."""

from __future__ import annotations

import json
from typing import Any

from qosctl.bpf.kernel import bpffs, netns

from tests.lab import Namespace


def traces(namespace: Namespace) -> dict[str, Any]:
    """Return devices, addresses, routes, rules, queues, filters and BPF pins, for comparison with another time."""
    # As few processes as there can be: this runs twice a test.
    devices, routes4, rules4 = _documents(namespace.ip("addr", "route", "rule"))
    routes6, rules6 = _documents(namespace.run(["ip", "-j", "-6", "-batch", "-"], stdin="route\nrule\n").stdout)
    qdiscs = tc(namespace, "qdisc")
    with_filters = {qdisc["dev"] for qdisc in qdiscs if qdisc["kind"] == "clsact"}
    return {
        "addresses": {d["ifname"]: sorted(a["local"] for a in d["addr_info"]) for d in devices},
        "routes": [(route["dst"], route["dev"]) for route in (*routes4, *routes6)],
        "rules": [rules4, rules6],
        "qdiscs": qdiscs,
        "filters": {device: filters(namespace, device) for device in with_filters},
        "pins": pins(namespace),
    }


def ip(namespace: Namespace, *words: str) -> list[dict[str, Any]]:
    """Return what `ip` lists."""
    return _json(namespace, "ip", "-j", *words)


def tc(namespace: Namespace, *words: str) -> list[dict[str, Any]]:
    """Return what `tc` lists."""
    return _json(namespace, "tc", "-j", *words)


def filters(namespace: Namespace, device: str) -> dict[str, list[dict[str, Any]]]:
    """Return the filters in both directions of a device's clsact qdisc."""
    if not any(q["kind"] == "clsact" for q in tc(namespace, "qdisc", "show", "dev", device)):
        return {}
    return {way: tc(namespace, "filter", "show", "dev", device, way) for way in ("ingress", "egress")}


def pins(namespace: Namespace) -> list[str]:
    """Return the BPF pins that belong to a namespace, or to a command that was at work in it."""
    with namespace.entered():
        cookie = str(netns.cookie())
    own = [path for path in bpffs.ROOT.glob("*") if cookie in path.name.split("_")]
    return sorted(str(pin) for path in own for pin in path.rglob("*") if pin.is_symlink() or not pin.is_dir())


def _documents(said: str) -> list[Any]:
    return [json.loads(row) for row in said.splitlines() if row.strip()]


def _json(namespace: Namespace, *argv: str) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(namespace.run(argv).stdout or "[]")
    return said
