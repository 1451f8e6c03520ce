"""A policy change waits for the packets that still read the table it will overwrite (finding 20)."""

import subprocess
import sys

import pytest

from tests.bpf.kernel.long_program import CAUGHT


@pytest.mark.audit
def test_a_policy_change_waits_for_running_programs_also_where_membarrier_is_refused() -> None:
    argv = [sys.executable, "-m", "tests.bpf.kernel.long_program"]
    caught, ended = map(int, subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split())
    assert caught == CAUGHT, "no program was seen running"
    assert ended == caught
