"""The lock that all commands take which change something, in the hands of somebody who does not let go."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from qosctl.bpf.kernel import bpffs


@contextmanager
def somebody_holds_the_lock() -> Iterator[None]:
    """Another process does, as a command that hangs would."""
    bpffs.ensure_mounted()
    bpffs.ROOT.mkdir(mode=0o700, exist_ok=True)
    argv = ["flock", str(bpffs.ROOT), "sh", "-c", "echo held; read end"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.communicate(b"\n")
