"""What a command says while it works: one line each to stderr, `qosctl: ...`, or with a level where the journal reads it.

    terminal, file, pipe     qosctl: vpn.example:443: the server ended the session: connecting again
    journal                  <4>vpn.example:443: the server ended the session: connecting again

The journal takes `<N>` for the line's priority (sd-daemon(3)), and knows by itself who speaks. It is at the other end when
JOURNAL_STREAM names the device and inode of our stderr (systemd.exec(5)): a child whose output somebody took elsewhere
has the variable, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from qosctl.bpf.printable import one_line
from qosctl.dtls.events import Severity


class Log:
    """Writes lines to `stream` that matter at least as much as `least`. Never raises: nobody may be reading any more."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str], *, least: Severity = Severity.NOTICE) -> None:
        self._stream = stream
        self._least = least
        self._to_journal = _is_journal(stream, environment.get("JOURNAL_STREAM", ""))

    def say(self, severity: Severity, line: str) -> None:
        """Write one line. What is not printable in it is written as Python would escape it: a line stays one line."""
        if severity > self._least:
            return
        before = f"<{severity.value}>" if self._to_journal else "qosctl: "
        with suppress(OSError, ValueError):  # ValueError: the stream has been closed
            print(before + one_line(line), file=self._stream, flush=True)

    def error(self, line: str) -> None:
        """Say what ended the command."""
        self.say(Severity.ERROR, line)

    def warning(self, line: str) -> None:
        """Say what works worse than it should."""
        self.say(Severity.WARNING, line)

    def notice(self, line: str) -> None:
        """Say what has changed."""
        self.say(Severity.NOTICE, line)


def _is_journal(stream: TextIO, named: str) -> bool:
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file, as in a test
        return False
    return named == f"{found.st_dev}:{found.st_ino}"
