"""The hooks of NetworkManager and vpnc-script: they attach where they are told to, and cannot break a VPN set-up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.exported import DEPLOY
from tests.lab import Namespace, Qosctl, veth
from tests.lab.qosctl import COMMAND

HOOKS = DEPLOY / "hooks"
HELPER = HOOKS / "attach-way-out"
# vpnc-script reads each hook into its own shell; this one is less forgiving than the real one.
READS_THE_HOOK = """
set -eu
set >"$1/before"
. "$2"
set >"$1/after"
echo survived
"""
PATIENCE = 30  # only a hook that waits takes that long


def helper(folder: Path, body: str) -> Path:
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(name="blocked")
def blocked_fixture(tmp_path: Path) -> Path:
    """A helper that says it has begun and then waits until nobody holds the pipe any more."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "release")
    return helper(tmp_path, f'echo begun >"{tmp_path}/begun"; cat "{tmp_path}/release"')


BODIES = {"fails": "exit 7", "exits loudly": "echo noise; echo noise >&2; kill -TERM $$", "is missing": ""}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_vpnc_script_survives_a_helper_that(body: str, tmp_path: Path) -> None:
    path = helper(tmp_path, body) if body else tmp_path / "missing"
    for gateway in ({"VPNGATEWAY": "192.0.2.1"}, {}):
        done = run_vpnc(tmp_path, path, gateway)
        assert (done.returncode, done.stdout, done.stderr) == (0, "survived\n", "")


def run_vpnc(tmp_path: Path, path: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "QOSCTL_HOOK_HELPER": str(path), **more}
    return subprocess.run(
        ["sh", "-c", READS_THE_HOOK, "sh", tmp_path, HOOKS / "vpnc"],
        env=env, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def test_the_vpnc_hook_leaves_no_variable_behind(tmp_path: Path) -> None:
    run_vpnc(tmp_path, helper(tmp_path, "exit 0"), {"VPNGATEWAY": "192.0.2.1"})
    before, after = (
        {line.split("=")[0] for line in (tmp_path / name).read_text().splitlines()} for name in ("before", "after")
    )
    assert after - before <= {"_"}


@pytest.mark.parametrize("hook", ["vpnc", "networkmanager"])
def test_nothing_waits_for_the_helper(hook: str, blocked: Path, tmp_path: Path) -> None:
    if hook == "vpnc":
        assert run_vpnc(tmp_path, blocked, {"VPNGATEWAY": "192.0.2.1"}).stdout == "survived\n"
    else:
        assert run_networkmanager(blocked, "eth0", "up") == 0
    assert (tmp_path / "begun").read_text() == "begun\n"  # it runs, and the hook is over
    (tmp_path / "release").write_text("go\n")


def run_networkmanager(path: Path, *words: str) -> int:
    env = {"PATH": os.environ["PATH"], "QOSCTL_HOOK_HELPER": str(path)}
    return subprocess.run([HOOKS / "networkmanager", *words], env=env, check=False, timeout=PATIENCE).returncode


@pytest.mark.parametrize("words", [("eth0", "up"), ("eth0", "down"), ("tun0", "vpn-up"), ("", "connectivity-change"), ()])
def test_the_dispatcher_hook_always_succeeds(words: tuple[str, ...], tmp_path: Path) -> None:
    assert run_networkmanager(tmp_path / "missing", *words) == 0
    assert run_networkmanager(helper(tmp_path, "exit 7"), *words) == 0


CASES = {
    "switched off": ("HOOKS=off", ["--device", "eth0"], False),
    "no configuration": (None, ["--device", "eth0"], False),
    "the device": ("HOOKS=on", ["--device", "eth0"], True),
    "the way to the server": ("HOOKS=on\nDEVICES='wl* eth*'", ["--to", "10.91.6.2"], True),
    "another device": ("HOOKS=on\nDEVICES='wl*'", ["--device", "eth0"], False),
    "no such device": ("HOOKS=on", ["--device", "nope0"], False),
    "no way": ("HOOKS=on", ["--to", "192.0.2.1"], False),
    "no address": ("HOOKS=on", ["--to", "; reboot"], False),
}


@pytest.mark.parametrize(("conf", "words", "attached"), CASES.values(), ids=CASES)
def test_attaching_where_told(conf: str | None, words: list[str], attached: bool, tmp_path: Path) -> None:
    file = tmp_path / "hooks.conf"
    if conf is not None:
        file.write_text(conf + "\n")
    with Namespace("hook") as here, Namespace("peer") as peer, veth(here, "eth0", peer, "eth0"):
        here.run(["ip", "address", "add", "10.91.6.1/24", "dev", "eth0"])
        env = [f"PATH={COMMAND.parent}:{os.environ['PATH']}", f"QOSCTL_HOOKS_CONF={file}"]
        here.run(["env", *env, str(HELPER), *words])
        assert ("eth0: attached" in Qosctl(here)("status", check=False).stdout) is attached
        Qosctl(here)("detach", "--all", check=False)
