"""A test that needs root fails in this folder, also when root runs it."""

import os
import socket
from pathlib import Path

import pytest


def test_what_needs_root_is_refused_here(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.touch()
    assert mine.stat().st_uid == os.geteuid() != 0
    with pytest.raises(PermissionError):
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
