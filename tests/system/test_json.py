"""What every noun says with --json, against the shape that scripts may count on.

A shape is a type, a tuple of what is allowed, a list of one shape, or a dict: keys and their shapes, no more and no less.
The key `str` stands for any number of keys.
"""

import json
from typing import Any

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page.statistics import RECONNECTS, cases_of
from qosctl.bpf.outcome import Outcome

from tests.lab.inside import Inside
from tests.lab.testbed import TUNNEL, Line

OPTIONAL_INT = (int, type(None))
END = {"address": str, "port": int}
COUNTED = {"packets": int, "bytes": int}
TRAFFIC = {"dscp": int, "packets": int, "bytes": int}
DEVICE = {
    "device": str,
    "ifindex": int,
    "state": str,
    "hook": (str, type(None)),
    "program": {"id": int, "tag": str},
    "ahead": [{"hook": str, "description": str}],
    "outcomes": {outcome.label: int for outcome in Outcome},
    "outer": {str: TRAFFIC},
}
FOLLOWED = {
    "pattern": str,
    "devices": [{"device": str, "kind": str, "refusal": (str, type(None))}],
    "reads": {"packets": int, "batches": int, "forgotten": int, "passed_over": int},
}
CARRIER = {
    "device": str,
    "ifindex": int,
    "port": (int, type(None)),
    "elsewhere": bool,
    "packets": int,
    "ahead": list,
}
STATUS = {
    "schema_version": int,
    "passtos": bool,
    "policy_is_default": bool,
    "devices": [DEVICE],
    "flows": int,
    "following": {"running": bool, "patterns": [FOLLOWED], "carriers": [CARRIER]},
}
CLASS = {"dscp": int, "sent": COUNTED, "received": COUNTED, "backlog": {"records": int, "milliseconds": float}}
FLOW = {
    "local": END,
    "remote": END,
    "owner": {"pid": int, "alive": bool, "tunnel": str, "server": str, "created_unix_ns": int},
    "state": str,
    "state_since_unix_s": int,
    "channel": (str, type(None)),
    "cipher": (str, type(None)),
    "reconnects": dict.fromkeys(cases_of(RECONNECTS), int),
    "classes": {str: CLASS},
    "statistics": {str: int},
}
FLOWS = {"schema_version": int, "flows": [FLOW]}
PASSTOS = {"schema_version": int, "passtos": bool}
RULE = {"inner": str, "outer": (str, type(None)), "inner_dscp": int, "outer_dscp": OPTIONAL_INT, "priority": OPTIONAL_INT}
POLICY = {"schema_version": int, "policy": [RULE]}


NOTHING_FOLLOWED: dict[str, Any] = {"running": False, "patterns": [], "carriers": []}


def _differences(value: Any, shape: Any, path: str = "$") -> list[str]:
    """Return where `value` is not of `shape`."""
    if isinstance(shape, dict) and isinstance(value, dict):
        shapes = dict.fromkeys(value, shape[str]) if str in shape else shape
        if list(value) != list(shapes):
            return [f"{path}: keys {list(value)}, not {list(shapes)}"]
        return [fault for key in value for fault in _differences(value[key], shapes[key], f"{path}.{key}")]
    if isinstance(shape, list) and isinstance(value, list):
        return [fault for n, item in enumerate(value) for fault in _differences(item, shape[0], f"{path}[{n}]")]
    types = shape if isinstance(shape, tuple) else (shape,)
    return [] if type(value) in types else [f"{path}: {value!r} is not of {types}"]


def test_every_noun_has_its_shape_with_and_without_a_tunnel(attached: Line, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    assert _differences(attached.qosctl.read("status"), STATUS) == []
    assert _differences(attached.qosctl.read("passtos"), PASSTOS) == []
    assert _differences(attached.qosctl.read("policy"), POLICY) == []
    with attached.connected() as connection:
        assert inside.works_both_ways(b"json")
        status, flows = attached.qosctl.read("status"), attached.qosctl.read("flows")
        pid = connection.process.pid
    assert _differences(status, STATUS) == []
    assert _differences(flows, FLOWS) == []

    assert status["schema_version"] == flows["schema_version"] == 1
    assert next(iter(status)) == next(iter(flows)) == "schema_version"
    assert (status["passtos"], status["policy_is_default"], status["flows"]) == (True, True, 1)
    (device,) = status["devices"]
    assert (device["device"], device["state"]) == (attached.device, "attached")
    assert sum(device["outcomes"].values()) > 0
    (flow,) = flows["flows"]
    assert flow["remote"] == {"address": attached.topology.server4, "port": attached.server.port}
    assert flow["local"]["address"] == attached.topology.client4
    owner = flow["owner"]
    assert (owner["pid"], owner["alive"], owner["tunnel"], owner["server"]) == (pid, True, TUNNEL, "10.91.2.2:4443")


def test_the_policy_names_every_class_once(attached: Line) -> None:
    rules = attached.qosctl.read("policy")["policy"]
    assert [rule["inner_dscp"] for rule in rules] == list(range(64))
    assert [(rule["inner"], rule["outer"]) for rule in rules] == [(dscp.name, dscp.name) for dscp in Dscp.all()]


def test_where_nothing_is_attached_the_document_is_empty_and_the_code_3(line: Line) -> None:
    for noun, empty in (
        ("status", {"passtos": False, "policy_is_default": True, "devices": [], "flows": 0, "following": NOTHING_FOLLOWED}),
        ("flows", {"flows": []}),
    ):
        said = line.qosctl(noun, "--json", check=False)
        assert json.loads(said.stdout) == {"schema_version": 1, **empty}
        assert (said.stderr, said.returncode) == ("", 3)


def test_a_verb_can_answer_in_json_too(attached: Line) -> None:
    for word in ("on", "off"):
        said = json.loads(attached.qosctl("passtos", word, "--json").stdout)
        assert said == {"schema_version": 1, "passtos": word == "on"}
