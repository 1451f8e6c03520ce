"""The switch: off until somebody turns it on, never in anybody's way, and no say in where packets go."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import pytest
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import BusyError, NotAttachedError
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.maps.namespace_maps import create_state, open_state
from qosctl.supervisor.cli.main import command_module, main
from qosctl.supervisor.devices.attach import attach, detach, detach_all
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import passtos, set_passtos

from tests.lab import Qosctl
from tests.lab.wire import ADDRESSES, NEAR, Stand, both_hooks, stamped

NOBODY = 65534


def test_before_any_attach_there_is_nothing_to_switch(stand: Stand) -> None:
    for call in (passtos, lambda: set_passtos(True)):
        with pytest.raises(NotAttachedError):
            call()
    said = Qosctl(stand.sender)("passtos", "on", check=False)
    assert (said.returncode, said.stdout, len(said.stderr.splitlines())) == (3, "", 1)


@both_hooks
def test_off_by_default_and_after_every_first_attach(stand: Stand, kind: HookKind) -> None:
    attach([NEAR], kind)
    assert not passtos()
    assert stamped(stand) == [0]
    assert set_passtos(True) is False
    assert set_passtos(True) is True
    assert stamped(stand) == [46]
    attach([NEAR], kind)
    assert passtos(), "a second attach is no first one"
    detach([NEAR])
    attach([NEAR], kind)
    assert not passtos()
    set_passtos(True)
    detach_all()
    attach([NEAR], kind)
    assert not passtos()


def test_a_tunnel_that_came_before_attach_does_not_switch_on(stand: Stand) -> None:
    bpffs.ROOT.mkdir(exist_ok=True)
    create_state()
    with open_state() as state:
        state.control.passtos = True
    with stand.tunnel():
        attach([NEAR])
        assert not passtos()


def test_switching_waits_for_nobody(stand: Stand) -> None:
    """Another command holds the lock, and would for ever."""
    attach([NEAR])
    qosctl = Qosctl(stand.sender)
    with bpffs.locked():
        set_passtos(True)
        assert stamped(stand) == [46]
        assert qosctl("passtos").stdout.strip().endswith("on")
        qosctl("passtos", "off")
        assert stamped(stand) == [0]


def test_who_cannot_wait_for_the_lock_hears_so_at_once(stand: Stand) -> None:  # noqa: ARG001 - the namespace
    bpffs.ROOT.mkdir(mode=0o700, exist_ok=True)
    with bpffs.locked():
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(BusyError, match="another qosctl is at work"), bpffs.locked(wait=False):
                    pass
                os.write(writing, b"refused")
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 100) == b"refused"
        os.waitpid(child, 0)
        os.close(reading)
    with bpffs.locked(wait=False):
        pass


def test_the_switch_is_one_for_all_devices(stand: Stand) -> None:
    attach([NEAR, "lo"])
    set_passtos(True)
    detach(["lo"])
    assert passtos()
    with stand.watcher.entered(), pytest.raises(NotAttachedError):
        passtos()


@pytest.mark.parametrize(
    "words",
    [
        ["attach", NEAR], ["detach", NEAR], ["detach", "--all"], ["passtos"], ["passtos", "on"], ["passtos", "off"],
        ["status"], ["flows"], ["policy"], ["policy", "set", "EF=leave"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "bare"])
def test_without_privilege_one_line_and_four(stand: Stand, words: list[str], attached: bool) -> None:
    if attached:
        attach([NEAR])
    mode = bpffs.MOUNT_POINT.stat().st_mode
    bpffs.MOUNT_POINT.chmod(0o700)  # as Linux mounts it
    before = stand.snapshot()
    try:
        code, out, err = as_nobody(words)
    finally:
        bpffs.MOUNT_POINT.chmod(mode)
    assert (code, out) == (4, ""), err
    assert len(err.splitlines()) == 1
    assert err.startswith("qosctl: ")
    assert "root" in err
    assert stand.snapshot() == before


def as_nobody(words: list[str]) -> tuple[int, str, str]:
    """Run the command line in a child without privilege; exit code, stdout and stderr."""
    command_module(words[0])  # what is imported here the child need not read
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            out, err = io.StringIO(), io.StringIO()
            code = main(words, out, err)
            os.write(writing, f"{out.getvalue()}\0{err.getvalue()}".encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        out_text, _, err_text = pipe.read().partition("\0")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out_text, err_text


@both_hooks
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("selector", ["rule", "route"])
def test_marks_have_no_say_in_routing(stand: Stand, kind: HookKind, version: int, selector: str) -> None:
    """A machine that routes the class 4 (TOS 0x10) into a black hole: the tunnel's packets of that class still leave.

    The same class set on the socket, as other tunnels do it, is swallowed: that is the control.
    """
    marked = Dscp.of(4)
    far = ADDRESSES[version][1]
    if selector == "rule":
        stand.sender.run(["ip", f"-{version}", "route", "add", "blackhole", "default", "table", "100"])
        stand.sender.run(["ip", f"-{version}", "rule", "add", "tos", "0x10", "priority", "10", "table", "100"])
    elif version == 4:
        stand.sender.run(["ip", "route", "add", "blackhole", far, "tos", "0x10"])
    else:  # IPv6 has no routes by traffic class: a rule for one destination is the next to it
        stand.sender.run(["ip", "-6", "route", "add", "blackhole", "default", "table", "100"])
        stand.sender.run(["ip", "-6", "rule", "add", "to", far, "tos", "0x10", "priority", "10", "table", "100"])
    attach([NEAR], kind)
    with stand.tunnel(version) as tunnel, stand.watching() as wire:
        for number, on in enumerate((False, True, False, True), start=1):
            set_passtos(on)
            tunnel.send(number, marked)
        frames = wire.wait_for(lambda frames: len(frames) == 4)
        assert [frame.dscp for frame in frames] == [0, 4, 0, 4]
        if version == 4:
            tunnel.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
        else:
            tunnel.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x10)
        with pytest.raises(OSError):
            tunnel.socket.sendto(b"swallowed", (far, 4443))


def test_switching_off_needs_no_process_of_ours(stand: Stand) -> None:
    """The pins are all there is: no lock file, no socket, nothing under /run."""
    attach([NEAR])
    before = {path.name for path in Path("/run").iterdir()}
    set_passtos(True)
    set_passtos(False)
    assert {path.name for path in Path("/run").iterdir()} == before
    assert stamped(stand) == [0]
