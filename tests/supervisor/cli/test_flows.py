"""`qosctl flows` shows what a client wrote, and a client that was taken over writes anything."""

from __future__ import annotations

import io

import pytest
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.cli.main import main
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.output.exit_codes import Exit

from tests.lab.program import own
from tests.lab.wire import NEAR, Stand


@pytest.mark.parametrize("word", [0, 1 << 33, 1 << 62, (1 << 64) - 1])
def test_any_words_make_a_table(stand: Stand, word: int) -> None:
    attach([NEAR])
    out = io.StringIO()
    with stand.tunnel() as tunnel:
        for at in range(len(tunnel.ring.page)):
            tunnel.ring.page[at] = word
        assert main(["flows"], out) == Exit.FINE
    assert "outer 10.92.0.1:40000 -> 10.92.0.2:4443" in out.getvalue()


@pytest.mark.usefixtures("stand")
def test_no_name_reaches_the_terminal_as_a_command() -> None:
    attach([NEAR])
    out = io.StringIO()
    ring = Ring(own("tun\x1b[2J\nroot#"))
    with open_state() as state:
        state.flows.add(FlowKey(("192.0.2.1", 1), ("192.0.2.2", 2)), ring)
        assert main(["flows"], out) == Exit.FINE
    ring.close()
    assert out.getvalue().startswith("tun\\x1b[2J\\nroot#: ")
    assert all(line.isprintable() for line in out.getvalue().splitlines())
