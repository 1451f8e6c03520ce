"""Whose a flow is, and whether its owner lives: kept where no client writes, and known without /proc.

Findings 10 and 20 (hidepid, pid namespaces, a client that poses as another), and 17 (no object is opened by its id).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.flow_page.flow_pins import NOBODY, FlowPins, Owner
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import create_state, flow_pins, folder, open_state, release_state
from qosctl.bpf.maps.ring import Ring

from tests.lab import Namespace
from tests.lab.program import own
from tests.lab.qosctl import COMMAND

KEY = FlowKey(("192.0.2.1", 5), ("192.0.2.2", 6))
OTHER = FlowKey(("192.0.2.1", 7), ("192.0.2.2", 6))

pytestmark = pytest.mark.audit

OWNER = """
import signal, sys
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.maps.namespace_maps import open_state
ring = Ring(Owner(int(sys.argv[1]), 0, "tun-x", "server.example"))
with open_state() as state:
    state.flows.add(FlowKey(("192.0.2.1", 5), ("192.0.2.2", 6)), ring)
print(ring.id, flush=True)
signal.pause()
"""
"""A process that has a flow, and says of itself what it is told to."""


@pytest.fixture(name="place")
def place_fixture() -> Iterator[Namespace]:
    """A namespace with maps in it, where this thread is."""
    with Namespace("owned") as namespace, namespace.entered():
        with bpffs.locked():
            create_state()
        yield namespace
        bpffs.remove_tree(folder())


@pytest.fixture(name="pins")
def pins_fixture(place: Namespace) -> FlowPins:  # noqa: ARG001 - what makes the folder
    return flow_pins(folder())


def owner(place: Namespace, *, pid: int = 1, wrapper: tuple[str, ...] = ()) -> tuple[subprocess.Popen[str], int]:
    process = place.popen([*wrapper, sys.executable, "-c", OWNER, str(pid)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def reaped() -> int:
    with bpffs.locked(), open_state() as state:
        return state.flows.reap()


def test_an_owner_lives_as_long_as_its_process(place: Namespace, pins: FlowPins) -> None:
    process, ring = owner(place)
    assert pins.alive(ring)
    assert reaped() == 0
    end(process)
    assert not pins.alive(ring)
    assert reaped() == 1
    assert list(pins.ids()) == []


def test_a_zombie_owns_nothing(place: Namespace, pins: FlowPins) -> None:
    process, ring = owner(place)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not pins.alive(ring)
    process.wait()


def test_an_owner_in_another_pid_namespace_lives(place: Namespace, pins: FlowPins) -> None:
    """As a container's client: here nobody has its process id, or somebody else has."""
    process, ring = owner(place, pid=99_999_999, wrapper=("unshare", "--fork", "--pid", "--kill-child"))
    assert pins.alive(ring)
    assert reaped() == 0
    end(process)
    wait_until_dead(pins, ring)
    assert reaped() == 1


def wait_until_dead(pins: FlowPins, ring: int) -> None:
    """--kill-child ends it a moment after its parent."""
    for _ in range(2000):
        if not pins.alive(ring):
            return
        os.sched_yield()
    assert not pins.alive(ring)


@pytest.mark.parametrize("hidepid", [1, 2])
def test_whom_proc_hides_keeps_the_flow(place: Namespace, pins: FlowPins, hidepid: int) -> None:
    """A supervisor that is not in /proc's group (root's), and has no CAP_SYS_PTRACE, sees nothing of others there."""
    process, ring = owner(place)
    seen = place.run(
        [
            "unshare", "--mount", "sh", "-euc", f"mount -t proc -o hidepid={hidepid} proc /proc\n"
            "exec setpriv --regid=65534 --clear-groups --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace sh -euc '"
            f"! cat /proc/{process.pid}/stat 2>/dev/null; exec {COMMAND} flows --json'",
        ]
    )  # fmt: skip
    (flow,) = json.loads(seen.stdout)["flows"]
    assert flow["owner"]["alive"]
    end(process)
    assert not pins.alive(ring)


@pytest.mark.usefixtures("place")
def test_no_client_can_pose_as_another_or_as_another_tunnel(pins: FlowPins) -> None:
    """It writes every word that it can reach."""
    ring = Ring(own("tun7"))
    with open_state() as state:
        state.flows.add(KEY, ring)
        for word in (1, (1 << 64) - 1, int.from_bytes(b"evil0\0\0\0", "little")):
            for at in range(len(ring.page)):
                ring.page[at] = word
            (flow,) = state.flows
            assert flow.owner == own("tun7")
            assert flow.alive
        ring.close()
        assert not pins.alive(flow.ring_id)
        (flow,) = state.flows
        assert not flow.alive
        assert state.flows.reap() == 1


def test_nobody_takes_the_flow_of_another_that_lives(pins: FlowPins) -> None:
    """A client that was taken over shows a TCP socket with the numbers of another's UDP socket (finding 11)."""
    victim, taker = (Ring(Owner(1, 0, name, "server.example")) for name in ("tun-victim", "tun-taker"))
    with bpffs.locked(), open_state() as state:
        state.flows.add(KEY, victim)
        state.flows.add(KEY, victim)
        with pytest.raises(RefusedError, match=r"^another tunnel goes from .* \(try: qosctl flows\)$"):
            state.flows.add(KEY, taker)
        assert [flow.owner.tunnel for flow in state.flows] == ["tun-victim"]
        assert set(pins.ids()) == {victim.id}, "and leaves nothing"
        victim.close()
        state.flows.add(KEY, taker)
        assert [flow.owner.tunnel for flow in state.flows] == ["tun-taker"]
        taker.close()
        state.flows.reap()


def test_those_who_ask_keep_no_owner_alive_and_no_reaper_waiting(place: Namespace, pins: FlowPins) -> None:
    process, ring = owner(place)
    end(process)
    asking = os.open(pins.path / str(ring), os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    assert not pins.alive(ring)
    assert reaped() == 1
    os.close(asking)


@pytest.mark.usefixtures("place")
def test_a_ring_goes_with_its_last_entry_and_its_owner(pins: FlowPins) -> None:
    ring = Ring(own("tun7"))
    with open_state() as state:
        state.flows.add(KEY, ring)
        state.flows.add(OTHER, ring)
        assert list(pins.ids()) == [ring.id]
        state.flows.remove(KEY)
        assert [flow.alive for flow in state.flows] == [True]
        state.flows.remove(OTHER)
        state.flows.forget(ring)
        state.flows.forget(ring)
    ring.close()
    assert list(pins.ids()) == []
    with bpffs.locked():
        assert release_state()


@pytest.mark.usefixtures("place")
def test_an_entry_without_pins_and_pins_without_an_entry_are_cleared(pins: FlowPins) -> None:
    """What a kill between two steps leaves."""
    first, second = Ring(own("tun1")), Ring(own("tun2"))
    with open_state() as state:
        state.flows.add(KEY, first)
        state.flows.add(OTHER, second)
        bpffs.remove_tree(pins.path / str(first.id))
        state.flows.remove(OTHER)
        second.close()
        assert state.flows.orphans() == [KEY]
        assert state.flows.reap() == 1
        assert list(state.flows.keys()) == []
    assert list(pins.ids()) == []
    first.close()


@pytest.mark.parametrize("name", ["tun-0.5", "ev\udcff", "a//b/./c", "ev\x1b[2J", "", "Ω"])
@pytest.mark.usefixtures("place")
def test_any_device_name_is_kept_and_fit_to_be_shown(name: str, pins: FlowPins) -> None:
    ring = Ring(Owner(1, 2, name, "https://vpn.example:443/a//b"))
    with open_state() as state:
        state.flows.add(KEY, ring)
        said = pins.owner(ring.id)
        assert said.tunnel.isprintable()
        assert (said.server, said.pid, said.created) == ("https://vpn.example:443/a//b", 1, 2)
        if name.isprintable():
            assert said.tunnel == name
        state.flows.remove(KEY)
        state.flows.forget(ring)
    ring.close()


@pytest.mark.parametrize("said", ["nothing", "{}", "[]", '{"pid": "x"}', '{"pid": 1, "created": 1, "tunnel": 1}', "\udcff"])
def test_what_says_nothing_sensible_is_nobodys(said: str, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "owner").symlink_to(said)
    assert FlowPins(tmp_path).owner(1) == NOBODY
    assert FlowPins(tmp_path).owner(2) == NOBODY


def test_the_lock_goes_over_to_no_program_that_the_owner_starts(place: Namespace, pins: FlowPins) -> None:
    """Or a script of the owner's would keep its flow alive."""
    ring = Ring(own("tun7"))
    with open_state() as state:
        state.flows.add(KEY, ring)
    script = place.popen(["sleep", "60"])
    ring.close()
    assert not pins.alive(ring.id)
    end(script)
