"""Rates and how they are shown: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued, backlog_word
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.maps.counters import DeviceCounters, OuterTraffic
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.following import Reads
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.outcome import Outcome
from qosctl.bpf.read_count import ReadCount
from qosctl.supervisor.devices.follow import Followed, Following
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.status import DeviceState, DeviceStatus, Status
from qosctl.supervisor.top.rates import Rate, Sample, rates
from qosctl.supervisor.top.screen import WIDTH, amount, screen, tick

KEY = FlowKey(("192.0.2.1", 40000), ("192.0.2.2", 443))


def device(stamped: int, octets: int = 0, name: str = "eth0", index: int = 2) -> DeviceStatus:
    counters = DeviceCounters(
        outcomes={outcome: stamped if outcome is Outcome.STAMPED else 0 for outcome in Outcome},
        outer={dscp: OuterTraffic(stamped, octets) if dscp is EF else OuterTraffic(0, 0) for dscp in Dscp.all()},
    )
    return DeviceStatus(name, index, DeviceState.ATTACHED, HookKind.TCX, None, (), counters)


def flow(sent: int, created: int = 1, tunnel: str = "tun0") -> Flow:
    statistics = [sent if statistic is Statistic.BYTES_SENT else 0 for statistic in Statistic]
    return Flow(KEY, Owner(1, created, tunnel, "vpn.example"), statistics)


def sample(at: float, *devices: DeviceStatus, flows: tuple[Flow, ...] = ()) -> Sample:
    return Sample(at, Status(True, Policy.identity(), devices, flows))


def test_a_rate_is_what_came_divided_by_the_time_it_took() -> None:
    now = rates(sample(10, device(100, 1000), flows=(flow(0),)), sample(12, device(150, 6000), flows=(flow(500),)))
    assert now.devices[0].outer == {EF: Rate(packets=25, bits=20000)}
    assert now.devices[0].outcomes[Outcome.STAMPED] == 25
    assert now.tunnels[0].sent.bits == 2000


def test_what_is_new_or_began_anew_has_no_rate_yet() -> None:
    assert rates(sample(0), sample(1, device(1000))).devices[0].outcomes[Outcome.STAMPED] == 0
    assert rates(sample(0, device(5000)), sample(1, device(1000))).devices[0].outcomes[Outcome.STAMPED] == 0
    reconnected = rates(sample(0, flows=(flow(100, created=1),)), sample(1, flows=(flow(900, created=2),)))
    assert reconnected.tunnels[0].sent.bits == 0


def following(packets: int) -> Following:
    reads = Reads(packets, 0, 0, 0, dtls=packets, openvpn=0, beyond_window=0)
    return Following(running=True, patterns=[Followed("vpns*", (), reads)])


def test_what_is_followed_has_rates_by_pattern() -> None:
    looks = [replace(sample(at).status, following=following(packets)) for at, packets in ((0, 100), (2, 400))]
    now = rates(Sample(0, looks[0]), Sample(2, looks[1]))
    assert now.followed[0].counts[ReadCount.PACKETS] == 150
    assert screen(now, "12:34:56")[-1] == "followed    vpns*         packets read 150.0/s  sent over DTLS 150.0/s"
    assert tick(now, "12:34:56").endswith("vpns*: packets read 150.0/s, sent over DTLS 150.0/s")
    assert rates(sample(0), Sample(1, looks[0])).followed[0].counts[ReadCount.PACKETS] == 0, "new: no rate yet"


AMOUNTS = {0: "0", 0.4: "0", 999: "999", 999.6: "1.0k", 12_345: "12.3k", 99_960: "100k", 395_000: "395k", 1e6: "1.0M",
           2.5e9: "2.5G", 1e15: "1000T"}  # fmt: skip


@pytest.mark.parametrize("value", AMOUNTS)
def test_amounts_are_short(value: float) -> None:
    assert amount(value) == AMOUNTS[value]


@given(st.floats(0, 9e14))
def test_no_amount_is_longer_than_six_characters(value: float) -> None:
    assert len(amount(value)) <= 6


NAMES = st.text(min_size=1, max_size=15)


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 10**12)), max_size=5),
    st.lists(st.tuples(NAMES, NAMES), max_size=5),
    st.integers(20, 200),
    st.integers(2, 30),
)
def test_a_screen_fits_and_holds_nothing_a_terminal_would_obey(
    devices: list[tuple[str, int]], tunnels: list[tuple[str, str]], width: int, height: int
) -> None:
    seen = [device(count, count * 99, name, index) for index, (name, count) in enumerate(devices, 1)]
    before = [device(0, 0, name, index) for index, (name, _) in enumerate(devices, 1)]
    flows = tuple(Flow(KEY, Owner(1, n, *names), flow(0).statistics) for n, names in enumerate(tunnels))
    now = rates(sample(0, *before, flows=flows), sample(1, *seen, flows=flows))
    lines = screen(now, "12:34:56", width, height)
    assert len(lines) <= height
    assert all(len(line) <= width and line.isascii() and (line.isprintable() or not line) for line in lines)
    assert tick(now, "12:34:56").isprintable()


def test_eighty_columns_lose_nothing() -> None:
    now = rates(sample(0, device(0, 0)), sample(1, device(10**9, 10**11), flows=(flow(1),)))
    dead = replace(now.tunnels[0], alive=False)
    live = replace(dead, alive=True, round_trip_us=1_234_500, backlog_ms=12_345, dropped=1234.5, replays=1234.5)
    now = replace(now, tunnels=(live, dead))
    assert screen(now, "12:34:56", WIDTH) == [
        "qosctl top  passtos on  policy default  1 tunnel                        12:34:56",
        "",
        "eth0  attached (tcx)                      packets/s    bit/s",
        "  EF                                1,000,000,000.0     800G  ##################",
        "",
        "tunnel      server                      out      in   round trip    backlog",
        "tun0        vpn.example                   0       0   1,234.5 ms  12,345 ms",
        "            dropped 1,234.5/s  replay losses suspected 1,234.5/s",
        "tun0        vpn.example                  its client is dead",
    ]


def test_a_backlog_that_nobody_measures_is_no_backlog_of_nothing() -> None:
    measured = flow(1)._replace(classes={EF: ClassUse(1, 1, 0, 0, backlog_word(Queued(0, 0)))})
    for seen, shown in ((flow(1), None), (measured, 0)):
        now = rates(sample(0), sample(1, flows=(seen,)))
        assert (now.tunnels[0].backlog_records, now.tunnels[0].backlog_ms) == (shown, shown)
        assert screen(now, "12:34:56", WIDTH)[-1].split()[-1] == ("-" if shown is None else "ms")


def test_nothing_attached_says_what_to_do() -> None:
    assert screen(rates(sample(0), sample(1)), "12:34:56")[-1] == "nothing is attached (try: qosctl attach IFACE)"
