"""Run the demo: python -m tests.demo [--seconds N] [--json PATH]. As root; `make demo` sets everything up."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.demo import terminal, watch
from tests.demo.probe import ALL, Outcome, send_all
from tests.demo.stage import Stage
from tests.demo.switch import SwitchOff, switch_off
from tests.demo.uplink import OFFERED_MBIT, RATE_MBIT, Uplink, measure
from tests.lab import LabError, enter_sandbox, unwind_on_signals
from tests.lab.memory import together_kb

_FIGURES = Path("build/demo.json")


def main() -> int:
    """Play all parts; 0 if every promise held, 1 if one did not, 130 when interrupted."""
    options = _options()
    if os.geteuid() != 0:
        print("the demo builds network namespaces and loads a BPF program: run it as root", file=sys.stderr)
        return 4
    unwind_on_signals()
    started = time.monotonic()
    try:
        enter_sandbox()
        figures = _play(options.seconds)
    except KeyboardInterrupt:
        print("\ninterrupted; all that the demo made is gone", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    held = _held(figures)
    verdict = "every promise held" if held else "NOT every promise held: compare the figures above"
    print(f"{verdict}; {time.monotonic() - started:.0f} s; figures in {options.json}; nothing left behind")
    return 0 if held else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="From nothing to stamped packets.")
    parser.add_argument("--seconds", type=float, default=10, help="length of each call in part 4 (default: 10)")
    parser.add_argument("--json", type=Path, default=_FIGURES, help=f"where the figures go (default: {_FIGURES})")
    return parser.parse_args()


def _play(seconds: float) -> dict[str, Any]:
    _introduce()
    with Stage() as stage:
        off = _off(stage)
        on = _on(stage)
        switched, off_again = _off_again(stage)
        loads = _uplink(stage, seconds)
        resident_mb = _watch(stage)
    return {
        "schema_version": 1,
        "off": {"checked": len(off.seen), "marked": off.marked},
        "on": {
            "checked": len(on.seen),
            "mismatched": on.mismatched,
            "ecn_changed": on.ecn_changed,
            "delivered": on.delivered,
        },
        "toggle_off_ms": round(switched.last_marked_ms, 2),
        "toggle_off": asdict(switched),
        "off_again": {"checked": len(off_again.seen), "marked": off_again.marked},
        "attach_ms": stage.attach_ms,
        "resident_mb": resident_mb,
        "bottleneck": {state: asdict(load) for state, load in loads.items()},
    }


def _held(figures: dict[str, Any]) -> bool:
    return bool(
        figures["off"] == figures["off_again"] == {"checked": len(ALL), "marked": 0}
        and figures["on"] == {"checked": len(ALL), "mismatched": 0, "ecn_changed": 0, "delivered": len(ALL)}
        and figures["toggle_off"]["marked_after_return"] == 0
        and figures["toggle_off"]["unmarked"] > 0
    )


def _introduce() -> None:
    terminal.title("qosctl demo")
    terminal.say("""
        A VPN tunnel hides what is inside it, the DSCP marks too: a voice packet marked EF leaves as one more anonymous
        datagram and waits in the same queue as a backup. qosctl carries the inner mark onto the outer packet, when
        told to. Here are three machines, made of network namespaces, with a real VPN server (ocserv) on the right:
    """)
    print("""\
        client 10.91.1.2 ------- router ------- 10.91.2.2 server
           |                                               |
           +--- 192.168.77.x === tunnel (DTLS) === 192.168.77.1
    """)
    terminal.say("""
        On the client the program is attached to the outer interface, then the tunnel is set up. From here on all
        outer packets are captured where they leave the client.
    """)


def _off(stage: Stage) -> Outcome:
    terminal.title("1  Marking is off until someone turns it on")
    stage.run("passtos")
    terminal.say(f"""
        Into the tunnel go {len(ALL)} packets: every DSCP (64) with every ECN value (4), over IPv4 and IPv6. Each has a
        length of its own, so that on the outer wire each record tells which packet it carries.
    """)
    outcome = send_all(stage)
    _tell(outcome)
    return outcome


def _on(stage: Stage) -> Outcome:
    terminal.title("2  Switched on, live: the same tunnel, the same packets")
    stage.run("passtos", "on")
    outcome = send_all(stage)
    _tell(
        outcome,
        ("outer DSCP not the inner one", outcome.mismatched),
        ("different outer DSCPs", len({frame.dscp for frame in outcome.seen.values()})),
        ("any ECN bit outside", outcome.ecn_changed),
    )
    terminal.say("""
        The 8 packets of DSCP 0 stay 0. Only the six DSCP bits are carried: an ECN mark says something about the path
        it was made on, and stays inside.
    """)
    return outcome


def _off_again(stage: Stage) -> tuple[SwitchOff, Outcome]:
    terminal.title("3  Switched off again, while EF packets flow, one every half millisecond")
    switched = switch_off(stage)
    terminal.table(
        [
            ("on the wire", ""),
            ("last marked packet, after the command was started", f"{switched.last_marked_ms:.1f} ms"),
            ("the command returned, after it was started", f"{switched.command_ms:.1f} ms"),
            ("marked packets after it returned", str(switched.marked_after_return)),
            ("bare packets between marked ones", str(switched.unmarked_before_last_marked)),
        ]
    )
    outcome = send_all(stage)
    _tell(outcome)
    return switched, outcome


def _uplink(stage: Stage, seconds: float) -> dict[str, Uplink]:
    terminal.title("4  What it is for: a call beside bulk through a slow uplink")
    terminal.say(f"""
        The router now sends no faster than {RATE_MBIT} Mbit/s, has a fast lane for packets marked EF, and a queue for
        all others. In the tunnel run {OFFERED_MBIT} Mbit/s of bulk datagrams and a call: 160 bytes every 20 ms, marked
        EF, echoed by the server. {seconds:.0f} s each way.
    """)
    loads = {}
    stage.run("passtos", "off")
    loads["off"] = measure(stage, seconds)
    stage.run("passtos", "on")
    stage.reconnect("--numbering", "plain")
    loads["on_plain"] = measure(stage, seconds)
    stage.reconnect()
    loads["on"] = measure(stage, seconds)
    heading = ("passtos", "call p50", "call p99", "call lost", "bulk arrived", "replay drops")
    rows = [
        (
            state.replace("_", ", ") + (" numbering" if "plain" in state else ""),
            f"{load.ef_p50_ms:.1f} ms",
            f"{load.ef_p99_ms:.1f} ms",
            f"{load.ef_lost:.1%}",
            f"{load.bulk_mbit:.1f} Mbit/s",
            str(load.replay_dropped),
        )
        for state, load in loads.items()
    ]
    terminal.table([heading, *rows])
    terminal.say("""
        Marked, the call no longer waits. With plain numbering the bulk pays for it, as in every other DTLS tunnel: a
        marked record overtakes bulk records in the queue, and the server throws away every record that arrives more
        than 64 numbers behind the newest one, as a replay. qosctl gives the overtaking record a number near those that
        the server expects by then, and the bulk gets through.
    """)
    return loads


def _watch(stage: Stage) -> dict[str, float]:
    terminal.title("5  What qosctl says of it")
    stage.run("status", limit=12)
    stage.run("flows")
    scrape = watch.scrape(stage)
    terminal.quote(watch.samples(scrape.text))
    tunnel = together_kb(stage.connection.process.pid, stage.connection.helper)
    resident_mb = {"connect": round(tunnel * 1024 / 1e6, 1), "metrics": round(scrape.resident_kb * 1024 / 1e6, 1)}
    terminal.say(f"""
        Attaching took {stage.attach_ms:.0f} ms. Resident: {resident_mb["connect"]:.0f} MB the client with the
        process beside it, {resident_mb["metrics"]:.0f} MB the endpoint.
    """)
    return resident_mb


def _tell(outcome: Outcome, *rows: tuple[str, int]) -> None:
    told = [
        ("on the outer wire", len(outcome.seen)),
        ("marked (DSCP not 0)", outcome.marked),
        *rows,
        ("unchanged where the tunnel ends, inner DSCP and ECN", outcome.delivered),
    ]
    terminal.table([("packets", ""), *((text, str(count)) for text, count in told)])


if __name__ == "__main__":
    sys.exit(main())
