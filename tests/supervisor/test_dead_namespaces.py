"""What a deleted network namespace left goes with the next command and with any supervisor, wherever it is (finding 18)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from qosctl.bpf.kernel import bpffs, netns
from qosctl.bpf.maps.namespace_maps import create_state, folder
from qosctl.supervisor.kill_switch.held import Owner, Slot
from qosctl.supervisor.process.locked_file import LockedFile
from qosctl.supervisor.supervise.repair import reap

from tests.lab import Namespace, Qosctl
from tests.lab.waiting import until
from tests.supervisor.supervise.running import Supervised

pytestmark = pytest.mark.audit

RUN = Path("/run/qosctl")


def left_behind(label: str) -> Path:
    """Attach in a namespace, delete it, and return where its pins were."""
    with Namespace(label) as namespace:
        place = place_of(namespace)
        Qosctl(namespace).attach("lo")
        assert (place / "devices" / "1").exists()
    return place


@pytest.fixture(name="alive")
def alive_fixture() -> Iterator[Namespace]:
    """A namespace that has maps of its own, and stays."""
    with Namespace("alive") as namespace:
        Qosctl(namespace).attach("lo")
        yield namespace
        Qosctl(namespace).detach_all()


def place_of(namespace: Namespace) -> Path:
    with namespace.entered():
        return folder()


@pytest.mark.parametrize("words", [["detach", "lo"], ["policy", "reset"]], ids=" ".join)
def test_the_next_command_anywhere_sweeps(words: list[str], alive: Namespace) -> None:
    place = left_behind("gone")
    kept = place_of(alive)
    until(lambda: netns.is_gone(str(place / bpffs.WITNESS)))
    with Namespace("another") as namespace:
        Qosctl(namespace)(*words, check=False)
        assert not place.exists()
        assert kept.exists()
        assert "lo: attached" in Qosctl(alive)("status").stdout


def test_any_supervisor_sweeps(alive: Namespace, tmp_path: Path) -> None:
    with Supervised(alive, tmp_path, "interfaces = []\n") as supervisor:
        place = left_behind("gone")
        until(lambda: netns.is_gone(str(place / bpffs.WITNESS)))
        supervisor.reload()
        supervisor.wait(lambda: not place.exists())
        assert place_of(alive).exists()


def test_a_supervisor_without_maps_of_its_own_sweeps_too() -> None:
    place = left_behind("gone")
    until(lambda: netns.is_gone(str(place / bpffs.WITNESS)))
    with Namespace("empty") as namespace, namespace.entered():
        assert bpffs.litter()
        assert reap() == 0
    assert not place.exists()
    assert not bpffs.litter()


def held_in(namespace: Namespace) -> Path:
    """Write the record of what a client that died there has left held, and return where it is."""
    with namespace.entered():
        before = set(RUN.iterdir())
        slot = Slot.claim()
        slot.write(Owner("vpn0", "vpn.example:443", ip_address("192.0.2.1")))
        slot.leave()
        cookie = netns.cookie()
    (record,) = (path for path in set(RUN.iterdir()) - before if path.name.startswith(f"{cookie}-"))
    return record


def witness_of(record: Path) -> Path:
    return bpffs.ROOT / f"witness_{record.name.partition('-')[0]}"


@pytest.mark.parametrize("by", ["unblock", "connect", "supervise"])
def test_the_record_of_a_tunnel_in_a_namespace_that_is_gone_is_swept(by: str, alive: Namespace) -> None:
    """/run grew by a file for each namespace that was deleted while something was held in it."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    stays = held_in(alive)
    with Namespace("gone") as namespace:
        gone = held_in(namespace)
        half = gone.with_name(f"new:{gone.name}")
        half.touch(mode=0o600)
    with Namespace("another") as another, another.entered():

        def swept() -> bool:
            if by == "unblock":
                Qosctl(another)("unblock")
            elif by == "connect":
                LockedFile.claim("vpn9").forget()
            else:
                reap()
            return not (gone.exists() or half.exists() or witness_of(gone).exists())

        until(swept)
    assert stays.exists()
    assert witness_of(stays).exists()
    stays.unlink()


def test_a_witness_goes_with_the_last_record() -> None:
    RUN.mkdir(mode=0o755, exist_ok=True)
    with Namespace("alive") as namespace, namespace.entered():
        files = [LockedFile.claim(name) for name in ("vpn1", "vpn2")]
        for file in files:
            file.store({})
        witness = bpffs.ROOT / f"witness_{netns.cookie()}"
        files[0].forget()
        assert witness.exists()
        files[1].forget()
        assert not witness.exists()


@pytest.mark.parametrize("spoil", ["no witness", "another map", "no folder"])
def test_what_cannot_be_proven_dead_stays(spoil: str) -> None:
    place = bpffs.ROOT / "18446744073709551615"
    place.mkdir(parents=True)
    with Namespace("alive") as namespace, namespace.entered():
        if spoil == "another map":
            with bpffs.locked():
                create_state()
            (folder() / "control").rename(place / bpffs.WITNESS)
        elif spoil == "no folder":
            (place / bpffs.WITNESS).mkdir()
        with bpffs.locked():
            assert place.exists()
        bpffs.remove_tree(folder())
    bpffs.remove_tree(place)


def test_the_place_of_a_supervisor_that_has_ended_goes(alive: Namespace, tmp_path: Path) -> None:
    def places() -> list[str]:
        return [path.name for path in bpffs.ROOT.iterdir() if path.name.startswith("held_")]

    with Supervised(alive, tmp_path, "interfaces = []\n"):
        assert len(places()) == 1
        Qosctl(alive)("attach", "lo")
        assert len(places()) == 1
    Qosctl(alive)("attach", "lo")
    assert places() == []
