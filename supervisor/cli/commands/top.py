"""`qosctl top [-i SECONDS] [-n COUNT] [--json]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from qosctl.bpf.errors import UsageError
from qosctl.supervisor.devices.status import DeviceState, status
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import Json, document
from qosctl.supervisor.top.rates import DeviceRates, FollowedRates, Rate, Rates, Sample, TunnelRates, rates
from qosctl.supervisor.top.screen import screen, tick
from qosctl.supervisor.top.terminal import Screen, can_draw, wait

_INTERVAL_MIN, _INTERVAL_MAX = 0.1, 3600.0
_DIGITS = 3  # of a rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the interval, an end, and --json."""
    parser.add_argument(
        "-i",
        "--interval",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="time between ticks (default: %(default)s)",
    )
    parser.add_argument("-n", "--count", type=int, metavar="TICKS", help="end after so many (default: q or Ctrl-C)")
    parser.add_argument("--json", action="store_true", help="machine-readable output, a line a tick")


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Show until q, Ctrl-C or the last tick; exits 3 where nothing was attached at the end."""
    if not _INTERVAL_MIN <= arguments.interval <= _INTERVAL_MAX:
        raise UsageError(f"{arguments.interval} s is no interval: {_INTERVAL_MIN} to {_INTERVAL_MAX:.0f}", "-i 2")
    if arguments.count is not None and arguments.count < 1:
        raise UsageError(f"{arguments.count} ticks are none", "-n 1")
    last = None
    drawing = can_draw(out) and not arguments.json
    with _shown(out, drawing=drawing, as_json=arguments.json) as show:
        for last in _ticks(arguments.interval, arguments.count, keys=drawing):
            show(last)
    attached = last is not None and any(device.state is DeviceState.ATTACHED for device in last.devices)
    return Exit.FINE if attached else Exit.NOT_ATTACHED


@contextlib.contextmanager
def _shown(out: TextIO, *, drawing: bool, as_json: bool) -> Iterator[Callable[[Rates], None]]:
    def line(now: Rates) -> None:
        print(json.dumps(top_json(now)) if as_json else tick(now, _clock()), file=out, flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        if not drawing:
            yield line
            return
        window = Screen(out)
        with window.opened():
            yield lambda now: window.draw(screen(now, _clock(), *window.size))


def _ticks(interval: float, count: int | None, *, keys: bool) -> Iterator[Rates]:
    """Yield rates, evenly spaced; on a screen the first at once, of no time."""
    before = Sample(time.monotonic(), status())
    if keys:
        yield rates(before, before)
    shown = 0
    while count is None or shown < count:
        if wait(max(0.0, before.at + interval - time.monotonic()), keys=keys):
            return
        now = Sample(time.monotonic(), status())
        if now.at - before.at < interval / 2:  # another key was pressed
            continue
        yield rates(before, now)
        before, shown = now, shown + 1


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def top_json(now: Rates) -> Json:
    """One tick as docs/json.md describes it."""
    return document(
        time_unix_ns=time.time_ns(),
        seconds=round(now.seconds, _DIGITS),
        passtos=now.passtos,
        policy_is_default=now.policy_is_default,
        devices=[_device_json(device) for device in now.devices],
        tunnels=[_tunnel_json(tunnel) for tunnel in now.tunnels],
        followed=[_followed_json(followed) for followed in now.followed],
    )


def _device_json(device: DeviceRates) -> Json:
    return {
        "device": device.name,
        "ifindex": device.index,
        "state": device.state.value,
        "hook": device.hook,
        "outcomes_per_second": {outcome.label: _rounded(rate) for outcome, rate in device.outcomes.items()},
        "outer": {dscp.name: {"dscp": dscp.value, **_rate_json(rate)} for dscp, rate in device.outer.items()},
    }


def _tunnel_json(tunnel: TunnelRates) -> Json:
    return {
        "tunnel": tunnel.device,
        "server": tunnel.server,
        "alive": tunnel.alive,
        "sent": _rate_json(tunnel.sent),
        "received": _rate_json(tunnel.received),
        "dropped_per_second": _rounded(tunnel.dropped),
        "replay_losses_suspected_per_second": _rounded(tunnel.replays),
        "dpd_round_trip_us": tunnel.round_trip_us,
        "backlog_records": tunnel.backlog_records,
        "backlog_ms": tunnel.backlog_ms,
        "numbering_replay_safe": tunnel.numbering_replay_safe,
    }


def _followed_json(followed: FollowedRates) -> Json:
    return {
        "pattern": followed.pattern,
        "reads_per_second": {count.label: _rounded(rate) for count, rate in followed.counts.items()},
    }


def _rate_json(rate: Rate) -> Json:
    return {"packets_per_second": _rounded(rate.packets), "bits_per_second": _rounded(rate.bits)}


def _rounded(rate: float) -> float:
    return round(rate, _DIGITS) if math.isfinite(rate) else 0.0
