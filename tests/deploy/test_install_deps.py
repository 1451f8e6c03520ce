"""deploy/install-deps keeps services from starting while it works, and not a moment longer (finding 20)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.exported import DEPLOY

pytestmark = pytest.mark.audit

POLICY = "/usr/sbin/policy-rc.d"
ASKED = f"{POLICY} ssh start && echo may start || echo refused"


def run(tmp_path: Path, during: str, *, before: str = "", after: str = "") -> list[str]:
    """Run it where /usr/sbin is empty and no package is there; `during` is what apt-get does. Returns what was said."""
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\ncase \" $* \" in *' --simulate '*) exit 0 ;; esac\n{during}\n")
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
    for name in ("apt-get", "dpkg-query"):
        (tmp_path / name).chmod(0o755)
    script = f"mount -t tmpfs tmpfs /usr/sbin\n{before}\n{DEPLOY / 'install-deps'} || :\n{after}\nls /usr/sbin"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-uc", script], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")},
    )  # fmt: skip
    said = (tmp_path / "said").read_text().splitlines() if (tmp_path / "said").exists() else []
    return said + done.stdout.splitlines()


def test_nothing_starts_meanwhile_and_nothing_is_left(tmp_path: Path) -> None:
    assert run(tmp_path, f'({ASKED}) >>"$SAID"') == ["refused"]


def test_killed_hard_it_leaves_nothing_that_says_no(tmp_path: Path) -> None:
    in_time = f"until {POLICY} ssh start; do sleep 0.01; done; echo may start"  # apt-get itself may take a moment to end
    said = run(tmp_path, f'({ASKED}) >>"$SAID"; kill -KILL $PPID', after=in_time)
    assert said == ["refused", "may start"]


def test_an_apt_get_that_outlives_it_still_starts_nothing(tmp_path: Path) -> None:
    during = f'kill -KILL $PPID; (while ! [ -e "$SAID.asked" ]; do sleep 0.01; done; {ASKED}) >>"$SAID"; touch "$SAID.done"'
    after = f'touch "$SAID.asked"; until [ -e "$SAID.done" ] && {POLICY} ssh start; do sleep 0.01; done; echo may start'
    assert run(tmp_path, during, after=after) == ["refused", "may start"]


def test_what_an_earlier_one_left_is_taken_over(tmp_path: Path) -> None:
    run(tmp_path, "kill -KILL $PPID", after=f"cp {POLICY} {tmp_path}/left")
    assert run(tmp_path, f'({ASKED}) >>"$SAID"', before=f"cp {tmp_path}/left {POLICY}") == ["refused"]


def test_the_administrators_own_stays(tmp_path: Path) -> None:
    own = f"printf '#!/bin/sh\\nexit 104\\n' >{POLICY}; chmod 755 {POLICY}"
    assert run(tmp_path, f'{POLICY} ssh start; echo $? >>"$SAID"', before=own) == ["104", "policy-rc.d"]
