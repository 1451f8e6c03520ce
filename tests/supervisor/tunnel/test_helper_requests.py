"""What a helper is asked by a client that has been taken over: senseless things, and too many (11)."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from qosctl.supervisor.tunnel.helper_messages import MESSAGE_BYTES_MAX

from tests.supervisor.tunnel.taken_over import GIVEN, Begin, outer, request

pytestmark = pytest.mark.audit

SENSELESS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "no object": b"[]",
    "a number": b"7",
    "nothing in it": b"{}",
    "deep": b"[" * 60_000,
    "deep inside": b'{"number": 7, "kind": "apply", "arguments": {"given": '
    + b'{"a":' * 20_000
    + b"1"
    + b"}" * 20_000
    + b"}}",
    "half a surrogate pair": rb'{"number": 7, "kind": "flow", "arguments": {"tunnel": "\ud800"}}',
    "half a pair for the script": request("apply", given={**GIVEN, "domain": "x"}).replace(b'"x"', rb'"\udfff"'),
    "too long": b" " * (MESSAGE_BYTES_MAX + 1),
    "a number beyond": request("settle").replace(b"7", b"9" * 30, 1),
    "a number too long to read": request("settle").replace(b"7", b"9" * 5000, 1),
    "a number that is true": request("settle").replace(b"7", b"true", 1),
    "a number that is none": request("settle").replace(b"7", b"NaN", 1),
    "no such kind": request("reboot"),
    "a kind that is a list": b'{"number": 7, "kind": [], "arguments": {}}',
    "arguments that are a list": b'{"number": 7, "kind": "flow", "arguments": [["10.0.0.1", 70000], ["10.0.0.2", 1], ""]}',
    "a flow of no socket": request("flow"),
    "a flow of words": request("flow", local=["10.92.0.1", 70000], remote=["10.92.0.2", 4443]),
    "a mark for no socket": request("mark"),
    "another device": request("device", mtu=1400, addresses=[]),
    "an MTU of nothing": request("fit"),
    "an MTU of a word": request("fit", mtu="1400; reboot"),
    "an MTU beyond": request("fit", mtu=1 << 40),
    "an address of this machine": request("readdress", addresses=["127.0.0.1/8"]),
    "an address that takes all": request("readdress", addresses=["10.0.0.1/0"]),
    "too many addresses": request("readdress", addresses=[f"10.0.0.{n}/32" for n in range(1, 99)]),
    "a tunnel that is a command": request("apply", given={**GIVEN, "tunnel": ";>owned"}),
    "a tunnel that is an option": request("apply", given={**GIVEN, "tunnel": "-x"}),
    "addresses of anything": request("apply", given={**GIVEN, "addresses": [{}]}),
    "a gateway that is none": request("apply", given={**GIVEN, "gateway": "`id`"}),
    "an MTU that is none": request("apply", given={**GIVEN, "mtu": -1}),
    "nothing given": request("prepare"),
}


def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(begin: Begin, tmp_path: Path) -> None:
    client = begin()
    assert client.ask("settle") == {"number": 1002, "answer": True}
    before = client.descriptors
    with outer() as shown:
        for name, message in SENSELESS.items():
            for descriptors in ((), (shown.fileno(),) if b'"flow"' not in message else (), (0, 1, shown.fileno())):
                client.say(message, descriptors)
            assert "answer" in client.ask("settle"), name
    assert client.descriptors == before
    assert len(client.warnings) == 1
    assert "Traceback" not in client.warnings[0]
    assert (tmp_path / "calls").read_text() == ""
    assert not list(tmp_path.glob("owned"))


def test_a_client_that_asks_for_much_waits_and_the_script_is_not_run_more_often(begin: Begin, tmp_path: Path) -> None:
    client = begin()
    client.ask("apply", given=GIVEN)
    client.connection.setblocking(False)
    began = time.monotonic()
    numbers = itertools.count()
    while time.monotonic() < began + 3:
        try:
            client.connection.send(request("apply", given={**GIVEN, "idle_s": next(numbers)}))
        except BlockingIOError:
            client.drain()
            time.sleep(0.001)
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert next(numbers) > 50
    assert calls <= 2 * (10 + 3 + 1)  # each is a disconnect and a connect
