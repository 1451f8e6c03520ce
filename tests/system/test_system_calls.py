"""What a client and its helper that were taken over still get from the kernel (17): real processes, told to try."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.terminal import Terminal
from tests.lab.testbed import Line
from tests.system.taken_over_program import attempts

PROGRAM = Path(__file__).with_name("taken_over_program.py")
SCRIPT = "/usr/share/vpnc-scripts/vpnc-script"
PATIENCE_S = 20.0
NOBODY = "65534"
OWN = {"own thread", "own signal", "own limit", "own name server"}
NEITHERS = {"BPF program", "trace", "memory of others", "handle of others", "event", "ring", "page fault"}
ROOT = Path(__file__).parent.parent.parent
PR_SET_SECCOMP = 22  # the older way to the same
REFUSED = (
    f"sys.path.append({str(ROOT)!r}); from errno import EINVAL, ENOSYS; from tests.lab.refusing import refuse;"
    f"refuse('prctl', EINVAL, {PR_SET_SECCOMP}); refuse('seccomp', ENOSYS)"
)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the client's user, as another tunnel's client is."""
    with subprocess.Popen(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sleep", "inf"]) as made:
        yield made
        made.kill()


def tried(told: Path, *pids: int) -> list[dict[str, str]]:
    """Have the processes try, and return what came of it."""
    for count, pid in enumerate(pids, 1):
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE_S
        while len(told.read_text().splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    said = [json.loads(row) for row in told.read_text().splitlines()]
    assert [each["pid"] for each in said] == list(pids)
    return [each["done"] for each in said]


@pytest.mark.audit
def test_what_was_taken_over_touches_nothing_but_its_tunnel(
    line: Line, victim: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Finding 17: a client had no filter, so it could end other tunnels' clients and type into root's terminal."""
    told = tmp_path / "told"
    told.touch()
    argv = [sys.executable, str(PROGRAM), str(told), str(victim.pid)]
    words = line.words("--setuid", "nobody", "--script", SCRIPT)
    with Terminal(line.client, [*argv, *words]) as terminal, Inside(line) as inside:
        terminal.wait_for(b"outer")
        (helper,) = map(int, Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split())
        ours, helpers = tried(told, terminal.pid, helper)
        assert {name: ours[name] for name in OWN} == dict.fromkeys(OWN, "done")
        others = ours.keys() - OWN
        assert {name: ours[name] for name in others} == dict.fromkeys(others, "EPERM")
        assert {name: helpers[name] for name in NEITHERS} == dict.fromkeys(NEITHERS, "EPERM")
        assert {name: helpers[name] for name in OWN | {"process"}} == dict.fromkeys(OWN | {"process"}, "done")
        assert inside.works_both_ways(b"through")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.wait(PATIENCE_S) == 0


def test_each_attempt_is_one_that_the_kernel_would_not_call_forbidden(victim: subprocess.Popen[bytes]) -> None:
    """Else the test above would see nothing of the filter."""
    said = subprocess.run(
        [sys.executable, "-c", TRY, str(victim.pid)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        cwd=PROGRAM.parent,
    ).stdout
    results = json.loads(said)
    assert results.keys() == attempts(0).keys()
    del results["BPF program"]  # takes a capability that a helper has
    assert "EPERM" not in results.values(), results


@pytest.mark.parametrize(
    "before", ["sys.modules['seccomp'] = None", REFUSED], ids=["no library", "no filter in the kernel"]
)
def test_what_cannot_be_given_up_stops_no_tunnel(line: Line, before: str) -> None:
    program = f"import sys; {before}; from qosctl.supervisor.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = line.words("--debug", "--setuid", "nobody", "--script", SCRIPT)
    with Connection(line.client, words, command=[sys.executable, "-c", program]) as connection, Inside(line) as inside:
        assert inside.works_both_ways(b"through")
        assert connection.errors.count("no system call is given up: ") == 1


TRY = f"""
import json, os, sys
from taken_over_program import attempt, attempts
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
print(json.dumps({{name: attempt(do) for name, do in attempts(int(sys.argv[1])).items()}}))
"""
