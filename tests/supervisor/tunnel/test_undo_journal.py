"""What is to be undone outlives a full file system, and a secret is judged by what was opened (finding 20)."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import netns
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.vpn.host_routes import Network
from qosctl.supervisor.cli import secrets
from qosctl.supervisor.tunnel.undo_journal import Leftover, UndoJournal, orphaned

_ROOM = 64 * 1024

pytestmark = pytest.mark.audit


@pytest.fixture(name="small")
def small_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A /run that is soon full."""
    place = tmp_path / "run"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_ROOM},mode=0755", "tmpfs", place], check=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(place / "qosctl"))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def leftover(routes: int) -> Leftover:
    network = Network(include=tuple(ip_network(f"10.{n >> 8}.{n & 255}.0/24") for n in range(routes)))
    given = HostConfig("vpn0", ip_address("192.0.2.1"), 1400, (ip_interface("192.168.77.5/24"),), network)
    return Leftover(42, "/bin/true", given)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return


@pytest.mark.parametrize("routes", [1, 256])
def test_where_run_is_full_the_old_record_stays(small: Path, routes: int) -> None:
    journal = UndoJournal.claim("vpn0")
    journal.write(leftover(2))
    fill(small)
    with pytest.raises(OSError):
        journal.write(leftover(routes))
    journal.leave()
    assert [left for _, left in orphaned()] == [leftover(2)]
    (small / "filler").unlink()
    again = UndoJournal.claim("vpn0")
    again.write(leftover(routes))
    assert [path.name for path in (small / "qosctl").iterdir()] == [f"{netns.cookie()}-vpn0"]
    again.leave()
    assert [left for _, left in orphaned()] == [leftover(routes)]


@pytest.mark.parametrize("when", ["claimed", "written"])
def test_the_lock_is_held_whatever_was_written(small: Path, when: str) -> None:
    journal = UndoJournal.claim("vpn0")
    if when == "written":
        journal.write(leftover(2))
    assert list(orphaned()) == []
    with pytest.raises(RefusedError, match="runs on it already"):
        UndoJournal.claim("vpn0")
    journal.forget()
    assert list((small / "qosctl").iterdir()) == []


def test_a_folder_with_a_link_on_the_way_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "link" / "run"))
    with pytest.raises(PermissionError):
        UndoJournal.claim("vpn0")
    assert list(orphaned()) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_secret_is_judged_by_what_was_opened(tmp_path: Path) -> None:
    """Everybody can read what is opened; before its mode is asked for, a file of mode 0600 has taken its name."""
    path, other = tmp_path / "password", tmp_path / "other"
    os.mkfifo(path)
    path.chmod(0o644)
    other.write_text("of mode 0600\n")
    other.chmod(0o600)

    def swap() -> None:
        # Opening waits for the reader, who may have seen enough and closed it when this is written.
        with suppress(BrokenPipeError), path.open("w") as writing:
            other.rename(path)
            writing.write("everybody's\n")

    swapping = threading.Thread(target=swap)
    swapping.start()
    with pytest.raises(RefusedError, match="others than its owner can read"):
        secrets.from_file(str(path))
    swapping.join()
