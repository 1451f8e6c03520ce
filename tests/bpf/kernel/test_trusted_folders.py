"""Folders that others could change are refused, and nothing outside a folder goes with it (finding 1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qosctl.bpf.errors import UntrustedError
from qosctl.bpf.kernel import trusted_folders

from tests.lab.victim import make_victim, whole

NOBODY = 65534

pytestmark = pytest.mark.audit


@pytest.fixture(name="place")
def place_fixture(tmp_path: Path) -> Path:
    """A folder of ours with `ours` in it, and in that a file."""
    (tmp_path / "ours").mkdir(mode=0o755)
    (tmp_path / "ours" / "file").touch()
    return tmp_path


@pytest.fixture(name="victim")
def victim_fixture(tmp_path: Path) -> Path:
    return make_victim(tmp_path)


def opened(path: Path) -> set[str]:
    fd = trusted_folders.open_folder(path)
    try:
        return set(trusted_folders.names(fd))
    finally:
        os.close(fd)


def test_what_is_ours_opens(place: Path) -> None:
    assert opened(place / "ours") == {"file"}


def linked(path: Path) -> None:
    path.symlink_to(path.rename(f"{path}-moved"))


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another's": (lambda place: os.chown(place / "ours", NOBODY, NOBODY), "belongs to"),
    "its group may write": (lambda place: (place / "ours").chmod(0o775), "can be changed by others"),
    "everybody may write": (lambda place: (place / "ours").chmod(0o1777), "can be changed by others"),
    "a link": (lambda place: linked(place / "ours"), "is a link"),
    "another's on the way": (lambda place: os.chown(place, NOBODY, NOBODY), "belongs to"),
    "everybody may write on the way": (lambda place: place.chmod(0o777), "can be changed by others"),
    "a link on the way": (linked, "is a link"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILS.values(), ids=SPOILS)
def test_what_others_could_change_does_not(spoil: Callable[[Path], object], said: str, place: Path) -> None:
    spoil(place)
    for use in (opened, lambda path: os.close(trusted_folders.make_folder(path, 0o700))):
        with pytest.raises(UntrustedError, match=said):
            use(place / "ours")


def test_in_a_sticky_folder_what_is_ours_is_safe_but_nothing_new_is_made_there(place: Path) -> None:
    place.chmod(0o1777)
    assert opened(place / "ours") == {"file"}
    with pytest.raises(UntrustedError, match="can be changed by others"):
        trusted_folders.make_folder(place / "new", 0o700)
    assert not (place / "new").exists()


def test_a_folder_is_made_once(place: Path) -> None:
    for _ in range(2):
        os.close(trusted_folders.make_folder(place / "new", 0o700))
    assert (place / "new").stat().st_mode & 0o7777 == 0o700


def test_of_a_link_the_link_goes(place: Path, victim: Path) -> None:
    (place / "ours" / "file").unlink()
    (place / "ours" / "inside").symlink_to(victim)
    (place / "link").symlink_to(victim)
    fd = trusted_folders.open_folder(place)
    for name in ("ours", "link", "link"):
        trusted_folders.remove(name, fd)
    os.close(fd)
    assert {path.name for path in place.iterdir()} == {"victim"}
    assert whole(victim)


def test_a_folder_that_is_swapped_for_a_link_on_the_way_leads_nowhere(
    place: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moment there is: after it was looked at, before it is opened."""
    (place / "ours" / "sub").mkdir()
    opens = os.open

    def swap_first(path: Any, *args: Any, **named: Any) -> int:
        if path == "sub":
            (place / "ours" / "sub").rename(place / "away")
            (place / "ours" / "sub").symlink_to(victim / "sub")
        return opens(path, *args, **named)

    fd = trusted_folders.open_folder(place)
    monkeypatch.setattr(os, "open", swap_first)
    with pytest.raises(OSError):
        trusted_folders.remove("ours", fd)
    monkeypatch.undo()
    os.close(fd)
    assert whole(victim)
