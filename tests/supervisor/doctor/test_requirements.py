"""Each piece that can be missing is taken away for real, in a child with mounts of its own."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.doctor import netlink, requirements
from qosctl.supervisor.doctor.finding import Finding, Level
from qosctl.supervisor.doctor.netlink import Netlink, attribute
from qosctl.supervisor.doctor.scratch_netns import mount, started

from tests.lab.qosctl import COMMAND
from tests.lab.refusing import refuse
from tests.lab.wire import NEAR, Stand
from tests.supervisor.doctor.looking import bad, causes, one, said_in

PROG_QUERY = 16


def looked(prepare: Callable[[], object], look: Callable[[], list[Finding]]) -> list[Finding]:
    """What is found in a throw-away child after `prepare`."""

    def work() -> list[Finding]:
        prepare()
        return look()

    with started("test", work) as pending:
        return pending.result()


def here() -> list[Finding]:
    return list(requirements.here())


def nothing() -> None:
    pass


def unmount_bpffs() -> None:
    libc = ctypes.CDLL(None)
    while libc.umount2(b"/sys/fs/bpf", 2) == 0:
        pass


def lock_down() -> None:
    mount("tmpfs", "/sys/kernel/security")
    Path("/sys/kernel/security/lockdown").write_text("none integrity [confidentiality]\n")


def other_qdisc() -> None:
    """An ingress qdisc sits where clsact would."""
    body = struct.pack("=B3xiIII", 0, 1, 0xFFFF0000, 0xFFFFFFF1, 0) + attribute(1, "ingress")
    with Netlink() as now:
        now.must(netlink.NEW_QDISC, body)


def neither_hook() -> None:
    other_qdisc()
    refuse("bpf", errno.EINVAL, PROG_QUERY)


def test_this_machine_can_run() -> None:
    assert bad(looked(nothing, here)) == {}
    assert bad(looked(nothing, requirements.tried)) == {}


@pytest.mark.parametrize(
    ("prepare", "check", "level"),
    [
        pytest.param(
            lambda: mount("tmpfs", "/usr/include/linux"), "headers", Level.FAIL,
            marks=causes("headers", "/usr/include/linux/bpf.h is missing"),
        ),
        pytest.param(
            lambda: mount("tmpfs", "/dev/net"), "tun", Level.FAIL, marks=causes("tun", "/dev/net/tun is missing")
        ),
        pytest.param(unmount_bpffs, "bpffs", Level.WARN, marks=causes("bpffs", "no BPF file system at ")),
        pytest.param(lock_down, "lockdown", Level.WARN, marks=causes("lockdown", "locked down for confidentiality")),
    ],
)  # fmt: skip
def test_a_missing_piece_of_the_machine(prepare: Callable[[], object], check: str, level: Level) -> None:
    assert bad(looked(prepare, here)) == {check: level}


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        pytest.param(
            lambda: refuse("bpf", errno.ENOSYS), {"bpf": Level.FAIL, "tcx": Level.WARN},
            marks=causes("bpf", "this kernel has no bpf(2)"),
        ),
        pytest.param(
            lambda: refuse("bpf", errno.EPERM), {"bpf": Level.WARN, "tcx": Level.WARN},
            marks=[
                causes("bpf", "whether programs can be loaded is not known"), causes("bpf", " was refused ("),
                causes("tcx", "whether it can be used is not known"),
            ],
        ),
        pytest.param(
            lambda: refuse("bpf", errno.EINVAL, PROG_QUERY), {"tcx": Level.WARN},
            marks=causes("tcx", "this kernel has no TCX"),
        ),
        pytest.param(other_qdisc, {"clsact": Level.WARN}, marks=causes("clsact", "no clsact qdisc")),
        pytest.param(
            neither_hook, {"tcx": Level.WARN, "clsact": Level.FAIL}, marks=causes("clsact", "neither TCX nor clsact")
        ),
    ],
)  # fmt: skip
def test_a_missing_piece_of_the_kernel(prepare: Callable[[], object], expected: dict[str, Level]) -> None:
    assert bad(looked(prepare, requirements.tried)) == expected


@causes("bcc", "bcc is not installed for this Python")
@causes("bcc", "is another project of that name")
def test_bcc_is_missing_or_another_project(tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    program = (
        "import dataclasses, json; from qosctl.supervisor.doctor import requirements; finding = requirements._bcc();"
        "print(json.dumps(dataclasses.asdict(finding) | {'level': finding.level.value}))"
    )
    hide = f"mount -t tmpfs none {Path(one(here(), 'bcc').seen.removeprefix('bcc is in ')) / 'bcc'}"

    def ask(before: str) -> Finding:
        argv = ["unshare", "-m", "sh", "-c", f'{before}; exec "$0" -c "$1"', sys.executable, program]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return said_in(json.loads(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout))

    assert bad([ask(hide)]) == {"bcc": Level.FAIL}
    (tmp_path / "bcc/__init__.py").touch()
    assert bad([ask("true")]) == {"bcc": Level.FAIL}


@causes("capabilities", "this process lacks ")
@causes("running", "whether marking works is not known")
@causes("stamp", "this part is not known")
def test_an_ordinary_user_learns_what_can_be_known_and_what_not(stand: Stand) -> None:
    attach([NEAR])
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    done = stand.sender.run([*nobody, str(COMMAND), "doctor", "--json"], check=False)
    assert "Traceback" not in done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    found = [said_in(finding) for finding in said["findings"]]
    assert one(found, "capabilities").level is Level.WARN
    assert one(found, "running").seen.startswith("could not look")
    assert one(found, "stamp").seen.startswith("could not look")
    assert one(found, "running").fix == "sudo qosctl doctor"
    assert one(found, "kernel-behaviour").level is Level.PASS
    assert len(said["behaviours"]) > 30
    words = stand.sender.run([*nobody, str(COMMAND), "doctor"], check=False).stdout
    assert "not all could be seen" in words.splitlines()[-1]
