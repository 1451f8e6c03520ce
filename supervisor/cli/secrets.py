"""Secrets come from a prompt, from standard input or from a file; never from the command line, which `ps` shows."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qosctl.bpf.errors import RefusedError, UsageError
from qosctl.dtls.transport.stop import Stop
from qosctl.supervisor.cli import typed_line


def from_file(path: str) -> str:
    """Read the first line of a file that only its owner can read."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of what was opened, whatever the path leads to by now
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise RefusedError(f"{path}: others than its owner can read or change it", f"chmod 600 {path}")
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}", f"ls -l {path}") from error
    except UnicodeDecodeError:
        raise RefusedError(f"{path}: not a text file") from None


def from_stdin(stop: Stop) -> str:
    """Read one line from standard input; StoppedError when asked to stop meanwhile."""
    line = typed_line.line_from(0, stop, what="standard input")
    if not line:
        raise UsageError("standard input is empty")
    return line.rstrip("\r\n")


def from_prompt(question: str, stop: Stop, *, what: str) -> str:
    """Ask on the terminal, without echo; UsageError where there is none, StoppedError when asked to stop meanwhile."""
    if not os.isatty(0):
        raise UsageError("no terminal to ask for the password on", "--passwd-on-stdin or --password-file FILE")
    line = typed_line.unseen_line(question, stop, what=what)
    if not line:
        raise UsageError(f"{what} was not typed")
    return line.rstrip("\r\n")
