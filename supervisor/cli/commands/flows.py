"""`qosctl flows [--json]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from qosctl.bpf.flow_page.by_dscp import ClassUse
from qosctl.bpf.flow_page.family import Family, Line
from qosctl.bpf.flow_page.statistics import DROPPED, RECONNECTS, Statistic, cases_of, shown_in
from qosctl.bpf.flow_page.tunnel_state import state_name
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.status import flows
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import channel_of, document, flow_json, write_json

_NANOSECONDS = 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """List the tunnels; exits 3 where there is none."""
    present = flows()
    if arguments.json:
        write_json(document(flows=[flow_json(flow) for flow in present]), out)
    elif not present:
        print("no tunnel is connected (try: qosctl connect https://HOST -u USER)", file=out)
    for flow in [] if arguments.json else present:
        for line in _lines(flow):
            print(one_line(line), file=out)  # names in it are the client's words, and it may have been taken over
    return Exit.FINE if present else Exit.NOT_ATTACHED


def _lines(flow: Flow) -> Iterator[str]:
    owner = flow.owner
    state = f"pid {owner.pid}" if flow.alive else f"pid {owner.pid} is dead (the next attach or connect clears it)"
    now_ns = time.time_ns()
    yield f"{owner.tunnel}: {owner.server}, {state}, up {(now_ns - owner.created) // _NANOSECONDS} s"
    yield f"    outer {_end(flow.key.local)} -> {_end(flow.key.remote)}"
    for name, said in _about(flow, now_ns // _NANOSECONDS):
        yield f"    {name:<14}{said}"
    for line in _classes(flow):
        yield f"    {line}".rstrip()


def _about(flow: Flow, now_s: int) -> Iterator[tuple[str, str]]:
    """What the client says of itself, by topic."""
    said = flow.statistics
    since = said[Statistic.STATE_SINCE_S]
    when = f", since {_moment(since)} ({now_s - since:,} s)" if since else ""
    yield "state", state_name(said[Statistic.STATE]) + when
    channel = channel_of(flow)
    if channel is not None:
        marks = "" if channel == "dtls" else ", unmarked"
        mtu = said[Statistic.INNER_MTU]
        yield "channel", f"{channel.upper()}{marks}, {flow.suite or 'cipher unknown'}, packets up to {mtu:,} bytes"
    trip = said[Statistic.DPD_ROUND_TRIP_US]
    yield "round trip", f"{trip / 1000:,.1f} ms" if trip else "not measured yet"
    yield "reconnects", _counted(said, RECONNECTS)
    yield Line.DTLS.value, _list(said, Line.DTLS)
    yield Line.ITS_RECORDS.value, _list(said, Line.ITS_RECORDS)
    yield "dropped", _counted(said, DROPPED)
    yield "over TLS", f"{said[Statistic.PACKETS_OVER_TLS]:,} packets"
    mode = "replay-safe" if said[Statistic.NUMBERING_REPLAY_SAFE] else "plain: nothing overtakes"
    yield Line.NUMBERING.value, f"{mode}; {_list(said, Line.NUMBERING)}"
    yield Line.PROBES.value, _list(said, Line.PROBES)


def _moment(unix_s: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
    except (OverflowError, OSError, ValueError):
        return "no time there is"


def _list(said: Sequence[int], line: Line) -> str:
    return ", ".join(f"{said[statistic]:,} {statistic.word}" for statistic in shown_in(line))


def _counted(said: Sequence[int], family: Family) -> str:
    """Return the sum, and what it is made of."""
    present = [(case, said[statistic]) for case, statistic in cases_of(family).items() if said[statistic]]
    parts = ", ".join(f"{name} {count:,}" for name, count in present)
    return f"{sum(count for _, count in present):,}" + (f": {parts}" if parts else "")


def _classes(flow: Flow) -> Iterator[str]:
    """A table of what each class has carried, below a line for all of them."""
    said = flow.statistics
    yield f"{'':<6}{'sent':>12}{'':>17}{'received':>12}{'':>17}{'queued':>10}"
    yield f"{'class':<6}{'packets':>12}{'bytes':>17}{'packets':>12}{'bytes':>17}{'records':>10}{'ms':>10}"
    total = (Statistic.PACKETS_SENT, Statistic.BYTES_SENT, Statistic.PACKETS_RECEIVED, Statistic.BYTES_RECEIVED)
    yield _row("all", [said[statistic] for statistic in total])
    for dscp, use in flow.classes.items():
        yield _row(dscp.name, use[: len(total)]) + _queued(use)


def _row(name: str, counts: Sequence[int]) -> str:
    return f"{name:<6}" + "".join(f"{count:>{(12, 17)[n % 2]},}" for n, count in enumerate(counts))


def _queued(use: ClassUse) -> str:
    queued = use.queued
    return f"{'-':>10}{'-':>10}" if queued is None else f"{queued.records:>10,}{queued.microseconds / 1000:>10,.1f}"


def _end(end: tuple[str, int]) -> str:
    address, port = end
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
