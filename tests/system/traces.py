"""What a command may leave behind in a network namespace, and must not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.lab import Namespace

BPFFS = Path("/sys/fs/bpf")


def traces(namespace: Namespace) -> dict[str, Any]:
    """Return devices, addresses, routes, queues, filters and BPF pins, for comparison with another time."""
    # One shell: this runs twice a test.
    said = namespace.run(["sh", "-c", "ip -j addr; ip -j -4 route; ip -j -6 route; tc -j qdisc"]).stdout
    devices, routes4, routes6, qdiscs = (json.loads(row) for row in said.split("\n") if row.strip())
    with_filters = {qdisc["dev"] for qdisc in qdiscs if qdisc["kind"] == "clsact"}
    return {
        "addresses": {d["ifname"]: sorted(a["local"] for a in d["addr_info"]) for d in devices},
        "routes": [(route["dst"], route["dev"]) for route in (*routes4, *routes6)],
        "qdiscs": qdiscs,
        "filters": {device: filters(namespace, device) for device in with_filters},
        "pins": pins(),
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


def pins() -> list[str]:
    """Return the BPF pins of the whole sandbox; the two files that the kernel makes are not pins."""
    return sorted(
        os.path.join(folder, name)  # noqa: PTH118 - os.walk gives strings
        for folder, _, names in os.walk(BPFFS)
        for name in names
        if not name.endswith(".debug")
    )


def _json(namespace: Namespace, *argv: str) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(namespace.run(argv).stdout or "[]")
    return said
