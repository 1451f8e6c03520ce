"""Rates as text: a screen of lines for a terminal, or one line a tick for a pipe. Pure; ASCII and no colour.

qosctl top  passtos on  policy default  1 tunnel                        12:34:56

eth0  attached (tcx)                      packets/s    bit/s
  DF                                        1,204.5    12.3M  ##################
  EF                                           50.0    86.4k
  left alone  no_flow 12.0/s  not_udp 3.0/s

tunnel      server                      out      in   round trip    backlog
tun0        vpn.example:443           12.0M    1.2M      12.3 ms      40 ms

followed    oc*           packets read 1,250.0/s  sent over DTLS 1,250.0/s
"""

from __future__ import annotations

from collections.abc import Iterator

from qosctl.bpf.outcome import Fate
from qosctl.bpf.printable import one_column_each
from qosctl.bpf.read_count import ReadCount
from qosctl.supervisor.devices.status import DeviceState
from qosctl.supervisor.top.rates import DeviceRates, FollowedRates, Rates, TunnelRates

WIDTH = 80
_BAR_MAX = 18
_STATES = {
    DeviceState.ATTACHED: "attached",
    DeviceState.DETACHED: "NOT ATTACHED (try: qosctl attach)",
    DeviceState.GONE: "gone",
}


def screen(rates: Rates, clock: str, width: int = WIDTH, height: int | None = None) -> list[str]:
    """Return the lines of a screen, none longer than `width` and no more than `height`."""
    lines = [line[:width] for line in _lines(rates, clock, width)]
    if height is not None and len(lines) > height:
        more = len(lines) - height + 1
        lines = [*lines[: height - 1], f"... {more} more lines: a taller window, or --json"[:width]]
    return lines


def tick(rates: Rates, clock: str) -> str:
    """Return one line that says the same in short."""
    parts = [f"passtos {_on(rates)}"]
    for device in rates.devices:
        classes = [f"{dscp.name} {amount(rate.bits)}bit/s" for dscp, rate in device.outer.items() if rate.packets]
        said = classes + [f"{name} {value:,.0f}/s" for name, value in _left_alone(device)]
        state = "" if device.state is DeviceState.ATTACHED else f"{_STATES[device.state]} "
        parts.append(f"{one_column_each(device.name)}: {state}{', '.join(said) or 'quiet'}")
    for tunnel in rates.tunnels:
        if tunnel.alive:
            backlog = f", backlog {tunnel.backlog_ms} ms" if tunnel.backlog_ms else ""
            flow = f"out {amount(tunnel.sent.bits)}bit/s, in {amount(tunnel.received.bits)}bit/s"
            parts.append(f"{one_column_each(tunnel.device)}: {flow}{backlog}")
    parts += [f"{one_column_each(each.pattern)}: {_counts(each, ', ')}" for each in rates.followed]
    return f"{clock} {'; '.join(parts)}"


def amount(value: float) -> str:
    """Return a number in at most six characters: 999, 12.3k, 1.2M."""
    units = iter("kMGT")
    unit = ""
    while value >= 999.5 and unit != "T":
        value, unit = value / 1000, next(units)
    return f"{value:.1f}{unit}" if unit and value < 99.95 else f"{value:.0f}{unit}"


def _lines(rates: Rates, clock: str, width: int) -> Iterator[str]:
    alive = sum(tunnel.alive for tunnel in rates.tunnels)
    policy = "default" if rates.policy_is_default else "custom"
    head = f"qosctl top  passtos {_on(rates)}  policy {policy}  {alive} tunnel{'' if alive == 1 else 's'}"
    yield f"{head}{clock:>{max(len(clock) + 2, width - len(head))}}"
    if not rates.devices:
        yield ""
        yield "nothing is attached (try: qosctl attach IFACE)"
    for device in rates.devices:
        yield ""
        yield from _device(device)
    if rates.tunnels:
        yield ""
        yield f"{'tunnel':<12}{'server':<23}{'out':>8}{'in':>8}{'round trip':>13}{'backlog':>11}"
        for tunnel in rates.tunnels:
            yield from _tunnel(tunnel)
    if rates.followed:
        yield ""
    for followed in rates.followed:
        yield f"{'followed':<12}{one_column_each(followed.pattern):<14}{_counts(followed, '  ')}"


def _device(device: DeviceRates) -> Iterator[str]:
    where = f"{_STATES[device.state]}{f' ({device.hook})' if device.hook else ''}"
    ahead = f", {device.ahead} foreign ahead" if device.ahead else ""
    yield f"{f'{one_column_each(device.name)}  {where}{ahead}':<38}{'packets/s':>13}{'bit/s':>9}"
    most = max((rate.bits for rate in device.outer.values()), default=0.0)
    for dscp, rate in sorted(device.outer.items(), key=lambda item: -item[1].bits):
        bar = "#" * round(_BAR_MAX * rate.bits / most) if most else ""
        yield f"  {dscp.name:<28}{rate.packets:>21,.1f}{amount(rate.bits):>9}  {bar}".rstrip()
    left = _left_alone(device)
    if left:
        yield "  left alone  " + "  ".join(f"{name} {value:,.1f}/s" for name, value in left)


def _left_alone(device: DeviceRates) -> list[tuple[str, float]]:
    left = ((outcome, rate) for outcome, rate in device.outcomes.items() if outcome.fate is not Fate.MARKED)
    reasons = [(outcome.label, rate) for outcome, rate in left if rate]
    return sorted(reasons, key=lambda reason: -reason[1])


def _tunnel(tunnel: TunnelRates) -> Iterator[str]:
    name = f"{one_column_each(tunnel.device):<12}{one_column_each(tunnel.server)[:22]:<23}"
    if not tunnel.alive:
        yield f"{name}{'its client is dead':>24}"
        return
    trip = f"{tunnel.round_trip_us / 1000:,.1f} ms" if tunnel.round_trip_us else "-"
    backlog = "-" if tunnel.backlog_ms is None else f"{tunnel.backlog_ms:,} ms"
    yield f"{name}{amount(tunnel.sent.bits):>8}{amount(tunnel.received.bits):>8}{trip:>13}{backlog:>11}"
    wrong = [
        f"{what} {value:,.1f}/s"
        for what, value in (("dropped", tunnel.dropped), ("replay losses suspected", tunnel.replays))
        if value
    ]
    if wrong:
        yield "            " + "  ".join(wrong)


def _counts(followed: FollowedRates, between: str) -> str:
    shown = [(count.word, rate) for count, rate in followed.counts.items() if rate or count is ReadCount.PACKETS]
    return between.join(f"{word} {rate:,.1f}/s" for word, rate in shown)


def _on(rates: Rates) -> str:
    return "on" if rates.passtos else "OFF"
