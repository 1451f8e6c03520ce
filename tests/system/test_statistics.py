"""What a tunnel says of itself, in `qosctl flows` and in the metrics: exactly what went through it, by class, both ways."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from qosctl.bpf.dscp import Dscp

from tests.lab import Bottleneck, Ocserv, bulk_udp, call
from tests.lab.exporter import Answer, Exporter
from tests.lab.inside import Inside
from tests.lab.testbed import TUNNEL, Line
from tests.system.test_network_faults import no_udp
from tests.test_json import faults

OCSERV = "dpd = 2\n"
_HEADERS = {4: 20 + 8, 6: 40 + 8}
_WORD = b"known"
# Inner IP version, class there, class back, packets. The kernel's own packets in a tunnel are of other classes (DF, CS6).
SENT = [
    (4, "EF", "AF41", 7),
    (6, "EF", "AF21", 5),
    (4, "AF31", "EF", 3),
    (6, "5", "CS1", 2),
    (4, "CS1", "CS1", 4),
]
CLASSES = {name for _, there, back, _ in SENT for name in (there, back)}
PATIENCE = 30


def _expected(direction: int) -> dict[str, dict[str, int]]:
    """Packets and bytes by class, there (1) or back (2)."""
    found = {name: {"packets": 0, "bytes": 0} for name in CLASSES}
    for row in SENT:
        count = found[str(row[direction])]
        count["packets"] += row[3]
        count["bytes"] += row[3] * (_HEADERS[row[0]] + len(_WORD))
    return found


def _exchange(inside: Inside) -> None:
    for version, there, back, packets in SENT:
        for _ in range(packets):
            inside.send(_WORD, Dscp.parse(there).value << 2, version)
            inside.answer(_WORD, Dscp.parse(back).value << 2)
        assert inside.answered(packets, version) == [_WORD] * packets


def _flow(line: Line, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the flow as soon as it is as wanted: its client tells once a second."""
    deadline = time.monotonic() + PATIENCE
    while True:
        said = json.loads(line.qosctl("flows", "--json", check=False).stdout)  # one flow may be about to replace another
        for flow in said["flows"]:
            if wanted(flow):
                found: dict[str, Any] = flow
                return found
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def _seen(flow: dict[str, Any], direction: str) -> dict[str, dict[str, int]]:
    """What is said of the classes that are known here."""
    nothing = {direction: {"packets": 0, "bytes": 0}}
    return {name: flow["classes"].get(name, nothing)[direction] for name in CLASSES}


def _in_metrics(answer: Answer, direction: str) -> dict[str, dict[str, int]]:
    packets = answer.labelled(f"qosctl_tunnel_class_{direction}_packets_total", "dscp", device=TUNNEL)
    octets = answer.labelled(f"qosctl_tunnel_class_{direction}_bytes_total", "dscp", device=TUNNEL)
    assert set(packets) == set(octets)
    return {name: {"packets": int(packets[name]), "bytes": int(octets[name])} for name in CLASSES}


def _all_arrived(flow: dict[str, Any]) -> bool:
    carried = sum(count["packets"] for way in ("sent", "received") for count in _seen(flow, way).values())
    return carried >= 2 * sum(packets for *_, packets in SENT)


def _adds_up(flow: dict[str, Any]) -> None:
    """The classes are all there is."""
    for way in ("sent", "received"):
        for what in ("packets", "bytes"):
            assert sum(use[way][what] for use in flow["classes"].values()) == flow["statistics"][f"{what}_{way}"]


def test_flows_and_metrics_say_what_each_class_has_carried_over_dtls(line: Line, inside: Inside) -> None:
    with line.connected() as connection, Exporter(line.client) as exporter:
        _exchange(inside)
        flow, answer = _flow(line, _all_arrived), exporter.scrape()
        text = line.qosctl("flows").stdout
        assert faults("flows", line.qosctl.read("flows")) == []
        pid = connection.process.pid
    assert (_seen(flow, "sent"), _seen(flow, "received")) == (_expected(1), _expected(2))
    assert (_in_metrics(answer, "sent"), _in_metrics(answer, "received")) == (_expected(1), _expected(2))
    _adds_up(flow)
    unknown = set(flow["classes"]) - CLASSES
    assert unknown <= {"DF", "CS6"}  # the kernel's own
    assert [use["dscp"] for use in flow["classes"].values()] == sorted(use["dscp"] for use in flow["classes"].values())
    assert (flow["state"], flow["channel"], flow["cipher"]) == ("dtls", "dtls", "PSK-AES256-GCM-SHA384")
    assert abs(time.time() - flow["state_since_unix_s"]) < PATIENCE
    assert flow["owner"]["server"] == "10.91.2.2:4443"
    assert set(flow["reconnects"].values()) == {0}
    # While passtos is off nothing is probed.
    assert {use["backlog"] for use in flow["classes"].values()} == {None}
    assert answer.labelled("qosctl_tunnel_class_backlog_records", "dscp", device=TUNNEL) == {}
    labels = {"state": "dtls", "channel": "dtls", "cipher": "PSK-AES256-GCM-SHA384"}
    assert answer("qosctl_tunnel_info", device=TUNNEL, **labels) == 1
    assert f"{TUNNEL}: 10.91.2.2:4443, pid {pid}" in text
    rows = {words[0]: words[1:5] for line in text.splitlines() if len(words := line.split()) == 7}
    assert {name: rows[name] for name in CLASSES} == {
        name: [str(n) for way in (1, 2) for n in (_expected(way)[name]["packets"], _expected(way)[name]["bytes"])]
        for name in CLASSES
    }


def test_over_tls_too_and_the_counts_go_on_when_dtls_is_back(line: Line, inside: Inside) -> None:
    with line.connected(), Exporter(line.client) as exporter:
        with no_udp(line):
            _flow(line, lambda flow: _beckoned(inside) and flow["state"] == "tls")
            before = _flow(line, lambda flow: bool(flow["cipher"]))
            _exchange(inside)
            flow, answer = _flow(line, _all_arrived), exporter.scrape()
            text = line.qosctl("flows").stdout
        assert (_seen(flow, "sent"), _seen(flow, "received")) == (_expected(1), _expected(2))
        _adds_up(flow)
        assert (flow["state"], flow["channel"]) == ("tls", "tls")
        assert before["cipher"] == flow["cipher"] == "TLS_AES_256_GCM_SHA384"
        assert {use["backlog"] for use in flow["classes"].values()} == {None}
        assert answer("qosctl_tunnel_info", device=TUNNEL, state="tls", channel="tls", cipher=flow["cipher"]) == 1
        assert answer.labelled("qosctl_tunnel_class_backlog_records", "dscp", device=TUNNEL) == {}
        assert "TLS, unmarked" in text
        after = _flow(line, lambda flow: _beckoned(inside) and flow["state"] == "dtls" and _all_arrived(flow))
        assert (_seen(after, "sent"), _seen(after, "received")) == (_expected(1), _expected(2))
        probes = [each["statistics"]["probes_sent"] for each in (flow, after)]
        assert probes == sorted(probes)


def test_the_backlog_is_told_class_by_class(attached: Line) -> None:
    """Bulk fills a slow uplink's queue and a call overtakes it: that shows in records and in milliseconds."""
    attached.qosctl("passtos", "on")
    seconds = 8.0

    def queued(flow: dict[str, Any]) -> bool:
        backlog = {name: use["backlog"] for name, use in flow["classes"].items()}
        known = {"EF", "DF"} <= set(backlog) and None not in backlog.values()
        return known and backlog["DF"]["records"] > 64

    with (
        attached.connected(),
        Exporter(attached.client) as exporter,
        Bottleneck(attached.router, attached.topology.router_server_if),
        bulk_udp(attached.client, attached.server_namespace, Ocserv.inner4, 30, seconds=seconds) as bulk,
        call(attached.client, attached.server_namespace, Ocserv.inner4, seconds=seconds - 1) as voice,
    ):
        flow, answer = _flow(attached, queued), exporter.scrape()
        voice.result()
        bulk.result()
    priority, other = (flow["classes"][name]["backlog"] for name in ("EF", "DF"))
    assert priority["milliseconds"] < other["milliseconds"]
    assert priority["records"] < other["records"]
    seconds_of = answer.labelled("qosctl_tunnel_class_backlog_seconds", "dscp", device=TUNNEL)
    records_of = answer.labelled("qosctl_tunnel_class_backlog_records", "dscp", device=TUNNEL)
    assert seconds_of["EF"] < seconds_of["DF"]
    assert records_of["EF"] < records_of["DF"]


def _beckoned(inside: Inside) -> bool:
    """Send something, so that there is something to tell of."""
    inside.send(b"beckon")
    inside.arrived(1, timeout=0.1)
    return True
