"""Root's commands with three of its capabilities, and what only shows with one: none takes CAP_SYS_ADMIN (finding 17)."""

from __future__ import annotations

import json
import subprocess

import pytest
from qosctl.bpf.kernel import syscall
from qosctl.supervisor.devices.hooks import HookKind

from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, both_hooks, close_all, foreign_program

CHANGES = ("net_admin", "bpf", "perfmon")
LOOKS = ("net_admin",)

pytestmark = pytest.mark.audit


def run(stand: Stand, capabilities: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    few = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    limits = ["setpriv", "--no-new-privs", f"--bounding-set={few}", f"--inh-caps={few}"]
    return stand.sender.run([*limits, str(COMMAND), *words], check=False)


@both_hooks
def test_everything_works(stand: Stand, kind: HookKind) -> None:
    assert run(stand, CHANGES, "attach", NEAR, "--hook", kind.value).stdout.startswith(f"{NEAR}: attached ({kind.value})")
    assert run(stand, CHANGES, "attach", NEAR).returncode == 0
    for words in (["passtos", "on"], ["policy", "fold", "2"]):
        assert run(stand, CHANGES, *words).returncode == 0, words
    with stand.tunnel() as tunnel:
        said = json.loads(run(stand, LOOKS, "status", "--json").stdout)
        (device,) = said["devices"]
        shown = stand.sender.run(["bpftool", "prog", "show", "id", str(device["program"]["id"])]).stdout
        assert f"tag {device['program']['tag']}" in shown
        (flow,) = json.loads(run(stand, LOOKS, "flows", "--json").stdout)["flows"]
        assert flow["owner"]["tunnel"] == "tun-test"
        assert flow["local"]["port"] == tunnel.key.local[1]
        (tick,) = run(stand, LOOKS, "top", "--json", "-n", "1", "-i", "0.1").stdout.splitlines()
        assert [one["tunnel"] for one in json.loads(tick)["tunnels"]] == ["tun-test"]
    assert run(stand, CHANGES, "policy", "reset").returncode == 0
    assert run(stand, CHANGES, "detach", NEAR).returncode == 0


def test_programs_of_others_go_by_their_numbers(stand: Stand) -> None:
    """Their names are for whoever may open them."""
    run(stand, CHANGES, "attach", NEAR, "--hook", "clsact")
    program = foreign_program(ttl=77)
    link = syscall.link_create_tcx_first(program, stand.index)
    number = syscall.program_info(program).id
    assert f"program {number} (qosctl_egress)" in run(stand, (*LOOKS, "sys_admin"), "status").stdout
    assert f"program {number}" in run(stand, LOOKS, "status").stdout
    assert "(qosctl_egress)" not in run(stand, LOOKS, "status").stdout
    close_all([link, program])


@pytest.mark.parametrize("words", [["attach", NEAR], ["status"], ["metrics"]], ids=" ".join)
def test_without_any_one_line_says_what_is_missing(stand: Stand, words: list[str]) -> None:
    run(stand, CHANGES, "attach", NEAR)
    done = run(stand, (), *words)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[-1].startswith("qosctl: ")
    assert "needs root with CAP_NET_ADMIN" in done.stderr.splitlines()[-1]
