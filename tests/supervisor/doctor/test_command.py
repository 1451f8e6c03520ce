"""The whole command: order, words, time, and that it leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from qosctl.bpf.load.bcc import BccLoader
from qosctl.supervisor.cli.commands import doctor as doctor_command
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.passtos import set_passtos
from qosctl.supervisor.devices.status import status
from qosctl.supervisor.doctor import examine, scratch_netns, selftest
from qosctl.supervisor.doctor.finding import Finding, Level, passed
from qosctl.supervisor.doctor.scratch_netns import ThrowawayError, started

from tests.lab import Qosctl
from tests.lab.program import changed_sources
from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, another_version
from tests.supervisor.doctor.looking import bad, causes, children, look_at, one


@contextmanager
def doctor(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, by which its children are found."""
    process = subprocess.Popen(
        [COMMAND, "doctor", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        yield process


def of_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def gone(session: int) -> bool:
    """Whether all of a session end; the kernel needs a moment to end them."""
    deadline = time.monotonic() + 5
    while of_session(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not of_session(session)


def machine_state() -> list[str]:
    asked = (
        ["ip", "link"],
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "netns"],
        ["tc", "qdisc"],
        ["nft", "list", "ruleset"],
    )
    said = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in asked]
    return [*said, str(sorted(Path("/sys/fs/bpf").rglob("*")))]


def children_cpu_s() -> float:
    """CPU time of ended children: a machine that others use as well makes a command late, not busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_fails_comes_first_and_the_last_line_says_where_to_begin(stand: Stand) -> None:
    before = machine_state()
    spent = children_cpu_s()
    done = Qosctl(stand.sender)("doctor", NEAR, check=False)
    assert children_cpu_s() - spent < 10
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    levels = [line.split()[0] for line in lines if line and not line.startswith(" ")][:-1]
    assert levels == sorted(levels, key=["FAIL", "WARN", "ok"].index)
    assert lines[0] == f"FAIL  {NEAR}: no program of ours stands at its egress"
    assert lines[2] == f"      fix: qosctl attach {NEAR}"
    assert lines[-1] == f"{NEAR}: no program of ours stands at its egress. Begin with: qosctl attach {NEAR}"
    assert machine_state() == before


def test_a_machine_in_order_has_no_fail(stand: Stand) -> None:
    attach([NEAR])
    set_passtos(True)
    with stand.tunnel() as tunnel:
        tunnel.send(1)
        said = Qosctl(stand.sender).read("doctor")
    assert said["ok"]
    assert said["schema_version"] == 1
    assert {f["check"] for f in said["findings"] if f["level"] != "PASS"} == {"queue"}
    assert all(f["seen"] for f in said["findings"])
    assert {row["key"] for row in said["behaviours"]} >= {"rule-tos-ef", "udp-option-mapped"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("processes", [2, 3])
def test_whatever_ends_it_leaves_no_process_and_so_no_namespace(sign: signal.Signals, processes: int) -> None:
    with doctor() as process:
        while len(of_session(process.pid)) < processes and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, sign)
        _out, err = process.communicate(timeout=10)
        assert gone(process.pid)
    assert "Traceback" not in err
    if sign is signal.SIGINT:
        assert err.strip() == "qosctl: interrupted; nothing is left behind"


@pytest.mark.parametrize(
    "before",
    [
        "ulimit -n 12",
        "ulimit -v 300000",
        "mount -t tmpfs none /proc",
        "mount -t tmpfs none /sys",
        "PATH=/nowhere",
        "echo 0 >/proc/sys/user/max_net_namespaces",
    ],
)
def test_a_machine_that_gives_little_gets_lines_and_a_conclusion(stand: Stand, before: str) -> None:
    limited = ["unshare", "-U", "-r"] if "namespaces" in before else []  # a limit of its own, which dies with it
    argv = [*limited, "unshare", "-m", "/bin/sh", "-c", f'{before}; exec "$0" doctor {NEAR}', str(COMMAND)]
    done = stand.sender.run(argv, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode in (0, 2)
    last = done.stdout.splitlines()[-1]
    assert "Begin with: " in last or "not all could be seen" in last


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_a_kernel_that_refuses_bpf_gets_lines_and_a_conclusion(stand: Stand, error: int) -> None:
    attach([NEAR])
    program = (
        "import sys; from tests.lab.refusing import refuse; from qosctl.supervisor.cli.main import main;"
        "refuse('bpf', int(sys.argv[1])); sys.exit(main(['doctor']))"
    )
    done = stand.sender.run([sys.executable, "-c", program, str(error)], check=False)
    assert done.stderr == ""
    assert ("no bpf(2). Begin with: " if error == errno.ENOSYS else "not all could be seen") in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", ["", "--json", "--matrix"])
def test_a_full_disk_is_a_line(words: str) -> None:
    done = subprocess.run(f"{COMMAND} doctor {words} >/dev/full", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "qosctl: No space left on device\n")


def test_a_device_that_comes_and_goes_meanwhile_stops_nothing(stand: Stand) -> None:
    over = threading.Event()

    def flap() -> None:
        while not over.is_set():
            for words in ("add name fly type veth peer name ylf", "set fly up", "del fly"):
                stand.sender.run(["ip", "link", *words.split()])
            stand.sender.run(["ip", "link", "add", "name", "fly", "type", "veth", "peer", "name", "ylf"])
            stand.sender.run(["tc", "qdisc", "add", "dev", "fly", "clsact"])
            stand.sender.run(["ip", "link", "del", "fly"])

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        said = [Qosctl(stand.sender)("doctor", "fly", NEAR, check=False) for _ in range(3)]
    finally:
        over.set()
        flapping.join()
    for done in said:
        assert (done.returncode, done.stderr) == (2, "")
        assert f"{NEAR}: no program of ours stands at its egress" in done.stdout


def test_a_child_that_fails_dies_or_hangs_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    works: dict[str, Callable[[], object]] = {
        "No space left": fails,
        "died": lambda: os._exit(3),
        "no answer": lambda: time.sleep(60),
    }
    others = children()
    for line, work in works.items():
        if line == "no answer":
            monkeypatch.setattr(scratch_netns, "_PATIENCE", 0.2)
        with pytest.raises(ThrowawayError, match=line), started("the test", work) as pending:
            pending.result()
        assert children() == others  # a session-wide server of other tests may be among them


@causes("group", "this part is not known")
def test_what_could_not_be_looked_at_is_a_line_behind_those_that_could() -> None:
    def look() -> Iterator[Finding]:
        yield passed("first", "fine")
        raise ThrowawayError("it broke", "again")

    found = look_at(examine._guarded("group", look))
    assert [finding.level for finding in found] == [Level.PASS, Level.WARN]
    assert found[1].seen == "could not look: it broke"


@causes("stamp", "the stamp went wrong: ")
def test_a_wrong_stamp_is_found() -> None:
    with changed_sources() as sources:
        source = (sources / "dscp.h").read_text()
        assert "#define ECN_MASK 0x03" in source
        (sources / "dscp.h").write_text(source.replace("#define ECN_MASK 0x03", "#define ECN_MASK 0x01"))
        with started("test", lambda: selftest.run(BccLoader(sources))) as pending:
            found = list(selftest.check(pending.result(), ()))
    assert bad(found) == {"stamp": Level.FAIL}
    assert "IPv4" in one(found, "stamp").seen


@pytest.mark.usefixtures("stand")
@causes("stamp-version", "is of another version")
def test_a_program_of_another_version_is_told_from_the_tested_one() -> None:
    with started("test", selftest.run) as pending:
        tested = pending.result()
    assert tested.runs == 1024
    attach([NEAR])
    assert bad(selftest.check(tested, status().devices)) == {}
    with another_version() as loader:
        attach([NEAR], loader=loader)
    assert bad(selftest.check(tested, status().devices)) == {"stamp-version": Level.WARN}


def test_the_matrix_is_for_machines_too() -> None:
    done = subprocess.run([sys.executable, COMMAND, "doctor", "--matrix", "--json"], capture_output=True, check=True)
    said = json.loads(done.stdout)
    assert said["kernel"].startswith("Linux ")
    assert all(set(row) >= {"key", "ipv4", "ipv6", "families_agree", "ecn", "breaks"} for row in said["behaviours"])


@pytest.mark.audit
def test_its_last_words_are_no_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Finding 19: the lines before were made fit to be shown, and the conclusion, which says it again, was not."""
    report = examine.Report([Finding(Level.FAIL, "hooks", "e\x1b[2Jth0: gone", "nothing is marked", "ip\x1b[31m link")], [])
    doctor_command._print(report, sys.stdout)
    said = capsys.readouterr().out
    assert said.count("e\\x1b[2Jth0") == 2
    assert "\x1b" not in said
