"""Names that are no text, few descriptors, and Ctrl-C: one line or none, and nothing half done."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf.kernel import bpffs
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.output.exit_codes import Exit

from tests.lab import Qosctl
from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, devices

NAMES = {"no UTF-8": b"ev\xff", "an escape sequence": b"a\x1b[31mb"}


@pytest.fixture(params=list(NAMES.values()), ids=list(NAMES))
def odd(stand: Stand, request: pytest.FixtureRequest) -> Iterator[str]:
    """A device of that name, as os.fsdecode gives it."""
    name = os.fsdecode(request.param)
    stand.sender.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "peer0"])
    yield name
    stand.sender.run(["ip", "link", "del", "peer0"])


@pytest.mark.audit
def test_a_device_name_is_any_bytes_and_is_shown_escaped(stand: Stand, odd: str) -> None:
    """Finding 19: such a name ended the command, and the terminal obeyed the other one."""
    qosctl = Qosctl(stand.sender)
    said = [qosctl("attach", odd), qosctl("status"), qosctl("doctor", odd, check=False)]
    assert qosctl.read("status")["devices"][0]["device"] == odd
    said.append(qosctl("detach", odd))
    escaped = odd.encode("unicode_escape").decode()
    for each in said:
        assert escaped in each.stdout
        assert "Traceback" not in each.stderr
        assert not [letter for letter in each.stdout if not (letter.isprintable() or letter == "\n")]


@pytest.mark.audit
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_followed_device_and_each_beside_it_may_have_any_name(stand: Stand, name: bytes) -> None:
    """Finding 19: with a name that is no UTF-8 on the machine, follow, status and doctor ended in a fault of ours."""
    odd = os.fsdecode(name)
    pattern = f"{odd[:3].rstrip('[')}*"
    stand.sender.run(["ip", "tuntap", "add", "dev", odd, "mode", "tun"])
    qosctl = Qosctl(stand.sender)
    said = [qosctl("follow", pattern), qosctl("status", check=False), qosctl("doctor", check=False)]
    patterns = json.loads(qosctl("status", "--json", check=False).stdout)["following"]["patterns"]
    assert [(each["pattern"], each["devices"][0]["device"]) for each in patterns] == [(pattern, odd)]
    said.append(qosctl("unfollow", pattern))
    for each in said:
        assert "internal error" not in each.stderr
        assert not [letter for letter in each.stdout + each.stderr if not (letter.isprintable() or letter == "\n")]


@pytest.mark.parametrize("count", range(7, 13))
def test_few_descriptors_are_one_line(stand: Stand, count: int) -> None:
    """Finding 20: a library's half-made objects complained of their end, behind the one good line."""
    limited = ["sh", "-c", f'ulimit -n {count}; exec "$@"', "sh", str(COMMAND), "attach", NEAR, "--hook", "clsact"]
    said = stand.sender.run(limited, check=False)
    assert said.returncode in {Exit.REFUSED, Exit.FINE}
    assert "ignored" not in said.stderr
    assert "Traceback" not in said.stderr
    if said.returncode == Exit.REFUSED:
        assert said.stderr.endswith("Too many open files (try: qosctl status)\n")


def at_work(process: subprocess.Popen[str]) -> None:
    """Wait until the command holds the lock."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            place = os.open(bpffs.ROOT, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(place, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(place)
        time.sleep(0.002)
    raise AssertionError(process.communicate())


@pytest.mark.audit
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 0.3, 0.4])
@pytest.mark.parametrize("kind", [HookKind.TCX, HookKind.CLSACT], ids=str)
def test_ctrl_c_during_an_attach_leaves_it_whole_or_undone(stand: Stand, kind: HookKind, after_s: float) -> None:
    """Finding 20. It comes wherever it comes; what stays afterwards is all of it or nothing."""
    before = stand.snapshot()
    argv = [str(COMMAND), "attach", NEAR, "--hook", kind.value]
    process = stand.sender.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    at_work(process)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert err == ""
    assert process.returncode in {Exit.FINE, Exit.INTERRUPTED}
    attached = devices()
    assert bool(attached) == (stand.snapshot() != before)
    if process.returncode == Exit.FINE:
        assert set(attached) == {NEAR}
        assert f"{NEAR}: attached" in out


def test_ctrl_c_while_another_command_works_ends_the_wait(stand: Stand) -> None:
    attach([NEAR])
    with bpffs.locked():
        process = stand.sender.popen([str(COMMAND), "detach", NEAR], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        waiting = Path(f"/proc/{process.pid}/wchan")
        while process.poll() is None and "nanosleep" not in waiting.read_text():  # between two looks for the lock
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == Exit.INTERRUPTED
    assert set(devices()) == {NEAR}
