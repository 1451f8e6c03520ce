"""`qosctl path HOST [--dscp EF] [--port N] [--json]`."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from typing import TextIO

from qosctl.bpf.dscp import DF, EF, Dscp, TrafficClass
from qosctl.bpf.errors import QosctlError, RefusedError, UsageError
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.printable import one_line
from qosctl.supervisor.devices.policy import parse_dscp
from qosctl.supervisor.devices.status import flows
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import Json, document, write_json
from qosctl.supervisor.path.rtt import DscpTimes
from qosctl.supervisor.path.traceroute import Hop, Trace, trace
from qosctl.supervisor.path.tunnel import Comparison, Echo, compare
from qosctl.supervisor.path.verdict import Change, MarkState, changes, ecn_changes, mark_states, summary

_HTTPS = 443  # where AnyConnect's DTLS listens unless told otherwise
_PORT_MAX = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the host, the mark and the port."""
    parser.add_argument("host", metavar="HOST", help="the VPN server, or any host behind the path in question")
    parser.add_argument("--dscp", default=EF.name, metavar="DSCP", help="mark to send (default: %(default)s)")
    parser.add_argument("--port", type=int, metavar="N", help="UDP port to send to (default: the running tunnel's, or 443)")
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=socket.AF_INET, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=socket.AF_INET6, help="IPv6 only")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Trace and report; exits 2 where the mark was changed on the way."""
    mark = parse_dscp(arguments.dscp)
    address = _resolve(arguments.host, arguments.family or socket.AF_UNSPEC)
    tunnel = _tunnel_to(address)
    port = arguments.port if arguments.port is not None else tunnel.key.remote[1] if tunnel else _HTTPS
    if not 1 <= port <= _PORT_MAX:
        raise UsageError(f"{port} is not a port", "--port 443")
    if not arguments.json:
        print(f"{mark} to {address}, UDP port {port}; what each hop received:", file=out, flush=True)
    try:
        found = trace(address, port, mark)
        compared = _compare(tunnel, mark)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted") from None
    if arguments.json:
        write_json(_json(arguments.host, found, compared), out)
    else:
        _print(found, compared, out)
    return Exit.REFUSED if any(changes(found)) else Exit.FINE


def _resolve(host: str, family: int) -> str:
    try:
        found = str(socket.getaddrinfo(host, None, family, socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise RefusedError(f"{host}: {reason}", "check the name, or give an address") from error
    address = ipaddress.ip_address(found)
    if address.is_multicast:
        raise RefusedError(f"{host}: a group has no one path", "give the address of one host")
    mapped = address.ipv4_mapped if address.version == 6 else None  # such packets are IPv4, and so are the errors
    return found if mapped is None else str(mapped)


def _tunnel_to(address: str) -> Flow | None:
    """Return the running tunnel to that address, as far as we may see it."""
    try:
        return next((flow for flow in flows() if flow.key.remote[0] == address and flow.alive), None)
    except QosctlError:  # the trace itself needs less privilege than our maps do
        return None


def _compare(tunnel: Flow | None, mark: Dscp) -> Comparison | None:
    """Compare the mark with none inside the tunnel, where there is one."""
    return None if tunnel is None or mark is DF else compare(tunnel, mark, DF)


def _print(found: Trace, compared: Comparison | None, out: TextIO) -> None:
    for hop, state in zip(found.hops, mark_states(found), strict=True):
        print(_line(hop, state), file=out)
    print(file=out)
    print(summary(found), file=out)
    for sentence in ecn_changes(found):
        print(sentence, file=out)
    if found.silent:
        print(f"{found.silent} of {len(found.hops)} hops quote nothing", file=out)
    if any(changes(found)):
        print("a router quotes what it received: the one before a change, or the link between the two, made it", file=out)
    if compared is not None:
        by = "the tunnel's own DPD echo" if compared.echo is Echo.DPD else "echo requests inside it"
        print("\n" + one_line(f"round trips through {compared.device}, by {by}, in turns:"), file=out)
        for times in (compared.marked, compared.unmarked):
            print(f"    {times.dscp.name:<6}{_times(times)}", file=out)
        if compared.note:
            print(compared.note, file=out)
        print(compared.verdict, file=out)


def _times(times: DscpTimes) -> str:
    if times.median_ms is None:
        return f"no answer, {times.lost} lost"
    least, most = min(times.round_trips_ms), max(times.round_trips_ms)
    return f"{times.median_ms:.1f} ms median, {least:.1f} to {most:.1f}, {times.lost} lost"


def _line(hop: Hop, state: MarkState) -> str:
    if hop.arrived is None or hop.round_trip_ms is None:
        return f"{hop.number:>3}  *"
    end = f" ({hop.end})" if hop.end else ""
    what = f"{hop.arrived.dscp.name:<6}{hop.arrived.ecn.name:<8}"
    return f"{hop.number:>3}  {hop.address:<40}{hop.round_trip_ms:>8.1f} ms  {what}  {state.value}{end}"


def _json(host: str, found: Trace, compared: Comparison | None) -> Json:
    return document(
        host=host,
        address=found.address,
        port=found.port,
        dscp=found.mark.name,
        reached=found.reached,
        summary=summary(found),
        silent_hops=found.silent,
        hops=[_hop_json(hop, state) for hop, state in zip(found.hops, mark_states(found), strict=True)],
        changes=[_change_json(change) for change in changes(found)],
        ecn=list(ecn_changes(found)),
        tunnel=_comparison_json(compared) if compared is not None else None,
    )


def _comparison_json(compared: Comparison) -> Json:
    return {
        "device": compared.device,
        "echo": compared.echo.value,
        "verdict": compared.verdict,
        "note": compared.note,
        "classes": [
            {"dscp": times.dscp.name, "round_trips_ms": list(times.round_trips_ms), "lost": times.lost}
            for times in (compared.marked, compared.unmarked)
        ],
    }


def _hop_json(hop: Hop, state: MarkState) -> Json:
    return {
        "hop": hop.number,
        "address": hop.address,
        "round_trip_ms": hop.round_trip_ms,
        "sent": _class_json(hop.sent),
        "arrived": _class_json(hop.arrived),
        "standing": state.value,
        "end": hop.end or None,
    }


def _class_json(byte: TrafficClass | None) -> Json | None:
    return None if byte is None else {"dscp": byte.dscp.name, "dscp_value": byte.dscp.value, "ecn": byte.ecn.name}


def _change_json(change: Change) -> Json:
    return {
        "after_hop": change.after.number if change.after else 0,
        "seen_at_hop": change.seen_at.number,
        "silent_between": change.silent_between,
        "from": change.old.name,
        "to": change.new.name,
        "pattern": change.pattern.name.lower(),
    }
