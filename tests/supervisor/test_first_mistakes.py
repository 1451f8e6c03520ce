"""What people get wrong in their first session is said, and done all the same where it might be meant."""

from __future__ import annotations

import io

import pytest
from qosctl.supervisor.attach import attach
from qosctl.supervisor.cli import main
from qosctl.supervisor.exits import Exit

from tests.supervisor.stand import NEAR, Stand, devices


def test_attaching_to_the_tunnel_itself_says_that_its_records_leave_elsewhere(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    attach([NEAR])
    stand.sender.run(["ip", "tuntap", "add", "tun-test", "mode", "tun"])
    with stand.tunnel():
        assert main(["attach", NEAR, "tun-test"], io.StringIO(), io.StringIO()) == Exit.FINE
    assert set(devices()) == {NEAR, "tun-test"}
    said = capsys.readouterr().err
    assert said.startswith("qosctl: tun-test: this is a tunnel; ")
    assert len(said.splitlines()) == 1
