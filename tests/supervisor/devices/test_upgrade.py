"""A hundred upgrades under load: not one packet goes by unmarked, counted by somebody else at the far end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qosctl.bpf.load.loader import LOADER, Loader
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import status

from tests.lab import Namespace
from tests.lab.wire import NEAR, PORTS, Stand, Tunnel, another_version, both_hooks

UPGRADES = 100


class InTurn:
    """A loader of programs that are in the kernel already."""

    def __init__(self, programs: Sequence[int]) -> None:
        self._turns = itertools.cycle(programs)

    def load(self, state: Path, device: Path, *, ethernet: bool) -> int:  # noqa: ARG002  (they are loaded)
        return os.dup(next(self._turns))

    def load_tun_reads(self, state: Path, namespace: int) -> int:
        raise AssertionError(f"nothing is followed here: {state}, {namespace}")

    def load_carry(self, state: Path, device: Path, namespace: int) -> int:
        raise AssertionError(f"nothing is followed here: {state}, {device}, {namespace}")


@contextmanager
def versions_in_turn(stand: Stand) -> Iterator[Loader]:
    """Compile two versions of the program once, and yield what loads the other one each time."""
    pins = pins_of(stand.index)
    one = LOADER.load(folder(), pins.path, ethernet=True)
    with another_version() as loader:
        other = loader.load(folder(), pins.path, ethernet=True)
    yield InTurn((other, one))
    os.close(one)
    os.close(other)


@contextmanager
def load(tunnel: Tunnel) -> Iterator[None]:
    """A process that sends marked records as fast as it can inside the block."""
    child = os.fork()
    if child == 0:
        try:
            for number in itertools.count(1):
                tunnel.send(number)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def counting(namespace: Namespace) -> Iterator[None]:
    """Let netfilter count what arrives for the tunnel's port: all, and what carries EF."""
    rules = f"""table inet seen {{
        counter any {{ }}
        counter marked {{ }}
        chain in {{
            type filter hook prerouting priority -300
            udp dport {PORTS[1]} counter name any
            udp dport {PORTS[1]} ip dscp ef counter name marked
        }}
    }}"""
    namespace.run(["nft", "-f", "-"], stdin=rules)
    yield
    namespace.run(["nft", "delete", "table", "inet", "seen"])


def counted(namespace: Namespace) -> tuple[int, int]:
    """All packets, and those with EF."""
    said = json.loads(namespace.run(["nft", "-j", "list", "counters"]).stdout)["nftables"]
    packets = {entry["counter"]["name"]: entry["counter"]["packets"] for entry in said if "counter" in entry}
    return packets["any"], packets["marked"]


@both_hooks
def test_a_hundred_upgrades_leave_no_packet_unmarked(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    set_passtos(True)
    with stand.tunnel() as tunnel, versions_in_turn(stand) as loader, counting(stand.watcher):
        tags = set()
        with load(tunnel):
            for _ in range(UPGRADES):
                before = counted(stand.watcher)[0]
                assert attach([NEAR], kind, loader=loader)[0].change == "replaced"
                tags.add(tag())
                while counted(stand.watcher)[0] == before:  # every version sees traffic
                    time.sleep(0.001)
        packets, marked = counted(stand.watcher)
    assert len(tags) == 2
    assert packets > UPGRADES
    assert packets - marked == 0
    outcomes = status().devices[0].counters.outcomes
    assert outcomes[Outcome.STAMPED] == packets


def test_changing_the_hook_leaves_no_packet_unmarked(stand: Stand) -> None:
    """Either way: the new hook has the program before the old one loses it."""
    attach([NEAR], HookKind.TCX)
    set_passtos(True)
    with stand.tunnel() as tunnel, versions_in_turn(stand) as loader, counting(stand.watcher):
        with load(tunnel):
            for kind in [HookKind.CLSACT, HookKind.TCX] * (UPGRADES // 4):
                attach([NEAR], kind, loader=loader)
        packets, marked = counted(stand.watcher)
    assert packets > UPGRADES
    assert packets - marked == 0


def test_the_count_would_show_a_gap(stand: Stand) -> None:
    """The proof of the proof: off and on again under load is seen."""
    attach([NEAR])
    set_passtos(True)
    with stand.tunnel() as tunnel, counting(stand.watcher):
        with load(tunnel):
            for on in (False, True):
                before = counted(stand.watcher)[0]
                set_passtos(on)
                while counted(stand.watcher)[0] < before + 100:
                    time.sleep(0.001)
        packets, marked = counted(stand.watcher)
    assert 0 < marked < packets


def tag() -> str:
    program = status().devices[0].program
    assert program is not None
    return program.tag
