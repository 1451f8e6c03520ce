"""Helpers of clients that have been taken over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from qosctl.supervisor.tunnel.flow_marker import FlowMarker
from qosctl.supervisor.tunnel.helper import Helper
from qosctl.supervisor.tunnel.helper_device import HelperDevice
from qosctl.supervisor.tunnel.vpnc_script import Script

from tests.lab.wire import Stand
from tests.supervisor.tunnel.taken_over import Begin, Taken


@pytest.fixture
def begin(stand: Stand, tmp_path: Path) -> Iterator[Begin]:
    """Begin helpers that have a script, whose calls go into the file `calls`."""
    del stand  # it is where we are
    script, calls, warnings = tmp_path / "script", tmp_path / "calls", tmp_path / "warnings"
    script.write_text(f'#!/bin/sh\necho "$reason $TUNDEV $VPNGATEWAY" >>{calls}\n')
    script.chmod(0o755)
    calls.touch()
    warnings.touch()

    def warn(line: str) -> None:
        with warnings.open("a") as file:
            print(line, file=file)

    with ExitStack() as stack:

        def made(tunnel: str | None = None, *, device: bool = True) -> Taken:
            pid = os.getpid()
            runner = Script(str(script), None, pid, warn)
            helper = Helper.start(HelperDevice(tunnel), FlowMarker("vpn.example:443", pid, warn), runner, None, warn)
            stack.callback(helper.end)
            client = Taken(helper, warnings)
            if device:
                assert client.ask("device", mtu=1400, addresses=["192.168.77.5/24"])["answer"].startswith("tun")
            return client

        yield made
