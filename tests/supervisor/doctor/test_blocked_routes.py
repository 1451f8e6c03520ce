"""What a tunnel that is gone has left blocked, made for real."""

from __future__ import annotations

from pathlib import Path

import pytest
from qosctl.supervisor.doctor import blocked_routes
from qosctl.supervisor.doctor.finding import Level

from tests.lab.wire import Stand
from tests.supervisor.doctor.looking import bad, causes, one


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))


@causes("blocked", "is gone, and nobody asked for its end")
def test_what_is_blocked_is_said(stand: Stand) -> None:
    assert bad(list(blocked_routes.check())) == {}
    stand.sender.run(["ip", "route", "add", "unreachable", "default", "table", "24742", "metric", "4294967295"])
    stand.sender.run(["ip", "rule", "add", "pref", "24777", "lookup", "24742", "protocol", "kernel"])
    found = list(blocked_routes.check())
    assert bad(found) == {"blocked": Level.WARN}
    assert one(found, "blocked").seen.startswith("0.0.0.0/0 (of table 24742): ")
