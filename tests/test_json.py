"""What the nouns print with --json, against the JSON Schemas in docs/schemas; and those against docs/json.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from qosctl.bpf.kernel import syscall
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.output.json_documents import SCHEMA_VERSION

from tests.lab import Qosctl
from tests.lab.wire import NEAR, Stand, close_all, foreign_program, stand

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (DOCS / "schemas").iterdir()}


def keys(schema: Any) -> Iterator[str]:
    """All property names, however deep."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from keys(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from keys(part)


def faults(name: str, document: Any) -> list[str]:
    """What is wrong with a document."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMAS[name]).iter_errors(document)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_of_this_version_and_its_keys_are_explained(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    text = (DOCS / "json.md").read_text()
    assert f"schemas/{name}.json" in text
    named = set(re.findall(r"`\.?([a-z0-9_]+)(?:\[\])?`", text))
    assert set(keys(SCHEMAS[name])) - named == set()


@pytest.fixture(name="busy", scope="module")
def busy_fixture() -> Iterator[Stand]:
    """A device with a tunnel's packets and somebody else's program ahead of ours, one that lost its program, one gone."""
    with stand() as built:
        for name in ("lan1", "lan2"):
            built.sender.run(["ip", "link", "add", name, "type", "ifb"])
        attach([NEAR, "lan1", "lan2"])
        set_passtos(True)
        built.sender.run(["ip", "link", "del", "lan1"])
        program = foreign_program(ttl=77)
        link = syscall.link_create_tcx_first(program, built.index)
        with built.tunnel() as tunnel:
            tunnel.send(1)
            yield built
        close_all([link, program])


@pytest.mark.parametrize(
    ("noun", "words"),
    [
        ("status", ["status"]),
        ("flows", ["flows"]),
        ("passtos", ["passtos"]),
        ("policy", ["policy"]),
        ("top", ["top", "-n", "1", "-i", "0.1"]),
        ("path", ["path", "10.92.0.2", "--port", "9"]),
        ("doctor", ["doctor", NEAR]),
    ],
)
def test_what_is_printed_is_what_the_schema_says(busy: Stand, noun: str, words: list[str]) -> None:
    said = Qosctl(busy.sender)(*words, "--json", check=False)
    assert faults(noun, json.loads(said.stdout)) == []


@pytest.mark.parametrize("noun", ["status", "flows", "top"])
def test_where_nothing_is_attached_too(busy: Stand, noun: str) -> None:
    words = ["-n", "1", "-i", "0.1"] if noun == "top" else []
    said = Qosctl(busy.watcher)(noun, *words, "--json", check=False)
    assert (faults(noun, json.loads(said.stdout)), said.returncode) == ([], 3)


@pytest.mark.parametrize("words", [["passtos"], ["policy"], ["path", "no.such.host.invalid"], ["top", "-i", "0"]])
def test_a_failure_is_a_document_too(busy: Stand, words: list[str]) -> None:
    said = Qosctl(busy.watcher)(*words, "--json", check=False)
    document = json.loads(said.stdout)
    assert faults("error", document) == []
    assert document["error"]["exit_code"] == said.returncode


def test_a_schema_is_not_content_with_everything(busy: Stand) -> None:
    document = Qosctl(busy.sender).read("status")
    assert faults("status", {**document, "more": 1})
    assert faults("status", {key: value for key, value in document.items() if key != "flows"})
    assert faults("status", {**document, "passtos": "on"})
