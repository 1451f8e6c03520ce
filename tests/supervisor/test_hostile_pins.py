"""What others can do to the folder of pins, and what root's commands then do: nothing (finding 1).

Each case is a shell script in mounts and a network namespace of its own, where `nobody` comes before root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lab.qosctl import COMMAND
from tests.lab.victim import make_victim, whole

REFUSED = 2

pytestmark = pytest.mark.audit

AS_NOBODY = 'as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups -- sh -c "$1"; }'
PINS = "/sys/fs/bpf/qosctl"
OPEN_MOUNT = "mount -t bpf bpf /sys/fs/bpf"  # drwxrwxrwt, as a bare mount gives it


@pytest.fixture(name="victim")
def victim_fixture(tmp_path: Path) -> Path:
    return make_victim(tmp_path)


def run(script: str, victim: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-euc", f"{AS_NOBODY}\n{script}"],
        env={**os.environ, "victim": str(victim), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


CASES = {
    "nobody made the folder": (
        f"{OPEN_MOUNT}\nas_nobody 'mkdir {PINS} && ln -s $victim {PINS}/old_x'",
        f"{PINS} belongs to nobody, who could change what is in it (try: rm -r {PINS}, and attach again)",
        f"rm -r {PINS}; chmod go-w /sys/fs/bpf",
    ),
    "nobody made a link": (
        f"{OPEN_MOUNT}\nas_nobody 'ln -s $victim {PINS}'",
        f"{PINS} is a link, or no folder (try: rm -r {PINS}, and attach again)",
        f"rm -r {PINS}; chmod go-w /sys/fs/bpf",
    ),
    "nobody could still come first": (
        OPEN_MOUNT,
        "/sys/fs/bpf can be changed by others than its owner (try: chmod go-w /sys/fs/bpf)",
        "chmod go-w /sys/fs/bpf",
    ),
    "the folder was given to a service": (
        f"mount -t bpf -o mode=0755 bpf /sys/fs/bpf; mkdir {PINS}; chown 65534 {PINS}\n"
        f"as_nobody 'ln -s $victim {PINS}/old_x'",
        f"{PINS} belongs to nobody, who could change what is in it (try: rm -r {PINS}, and attach again)",
        f"rm -r {PINS}",
    ),
    "others may write to the folder": (
        f"mount -t bpf -o mode=0755 bpf /sys/fs/bpf; mkdir -m 0777 {PINS}\nas_nobody 'ln -s $victim {PINS}/old_x'",
        f"{PINS} can be changed by others than its owner (try: chmod go-w {PINS})",
        f"chmod go-w {PINS}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "said", "mend"), CASES.values(), ids=CASES)
def test_a_folder_that_others_could_change_is_refused_and_the_hint_mends_it(
    before: str, said: str, mend: str, victim: Path
) -> None:
    done = run(
        f"{before}\nfor words in 'attach lo' 'detach --all' 'policy reset'; do qosctl $words && exit 99; done\n", victim
    )
    assert whole(victim)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"qosctl: {said}"] * 3

    mended = run(f'{before}\n{mend}\nqosctl attach lo\nqosctl detach --all\ntest -z "$(ls {PINS})"', victim)
    assert mended.returncode == 0, mended.stderr
    assert whole(victim)


@pytest.mark.parametrize("words", ["attach lo", "detach --all"])
def test_refusals_have_the_code_of_refusals(words: str, victim: Path) -> None:
    assert run(f"{OPEN_MOUNT}\nas_nobody 'mkdir {PINS}'\nqosctl {words}", victim).returncode == REFUSED


def test_what_a_killed_command_left_goes_and_nothing_that_it_leads_to(victim: Path) -> None:
    done = run(
        f"mount -t bpf -o mode=0700 bpf /sys/fs/bpf; mkdir -p {PINS}/new_y/deep/deeper\n"
        f"ln -s $victim {PINS}/old_x; ln -s $victim {PINS}/new_y/deep/link\n"
        f"qosctl attach lo >&2 && qosctl detach lo && ls {PINS}",
        victim,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["lo: detached"]), done.stderr
    assert whole(victim)
