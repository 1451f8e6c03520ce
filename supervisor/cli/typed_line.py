"""One line that somebody types, or that a program writes to us: waited for in a way that a stop ends at once.

Python's own input waits where no signal handler that merely notes the signal is heard, until Enter.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qosctl.bpf.errors import StoppedError, UsageError
from qosctl.bpf.kernel.descriptors import opened
from qosctl.dtls.transport.stop import Stop, StopRequestedError, wait

LINE_BYTES_MAX = 1 << 16
_READ_BYTES = 4096
_LOOK_S = 3600.0
_ECHO_FLAGS = 3  # where tcgetattr(3) keeps c_lflag
_TERMINAL = "/dev/tty"


def line_from(descriptor: int, stop: Stop, *, what: str) -> str:
    """Read from `descriptor` to the end of a line, which is returned too, or of the file; empty where there was nothing.

    `what` names it in errors: UsageError for what is no text or has no end, StoppedError when asked to stop meanwhile.
    """
    read = b""
    while b"\n" not in read:
        if len(read) > LINE_BYTES_MAX:
            raise UsageError(f"{what} has no end")
        _await(descriptor, stop, what)
        try:
            more = os.read(descriptor, _READ_BYTES)
        except OSError:  # the terminal is gone, or nobody gave us this descriptor
            more = b""
        read += more
        if not more:
            break
    line, end, _ = read.partition(b"\n")
    try:
        return (line + end).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{what} is no UTF-8 text") from None


def unseen_line(question: str, stop: Stop, *, what: str) -> str:
    """Ask on the terminal, and show nothing of what is typed; errors as those of `line_from`."""
    with _terminal() as (ear, mouth), _without_echo(ear):
        os.write(mouth, question.encode())
        try:
            return line_from(ear, stop, what=what)
        finally:
            with suppress(OSError):  # nobody looks any more
                os.write(mouth, b"\n")


def _await(descriptor: int, stop: Stop, what: str) -> None:
    try:
        while not wait(stop, descriptor, select.POLLIN, time.monotonic() + _LOOK_S):
            pass
    except StopRequestedError:
        raise StoppedError(f"stopped while {what} was awaited") from None


@contextmanager
def _terminal() -> Iterator[tuple[int, int]]:
    """Yield where to read and where to write: the terminal we belong to, whatever our output was sent to."""
    try:
        both = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield sys.stdin.fileno(), sys.stderr.fileno()
        return
    with opened(both):
        yield both, both


@contextmanager
def _without_echo(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    silent[_ECHO_FLAGS] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        with suppress(termios.error):  # it may have gone
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
