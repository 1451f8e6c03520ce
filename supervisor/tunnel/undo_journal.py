"""What has to be undone for a tunnel whose process died: a locked file for each tunnel device, named after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qosctl.bpf.errors import RefusedError
from qosctl.dtls.host_config import HostConfig
from qosctl.dtls.transport.netdev import NAME_OR_EMPTY
from qosctl.supervisor.process.locked_file import HeldError, LockedFile, orphans
from qosctl.supervisor.tunnel import vpnc_environment


@dataclass(frozen=True)
class Leftover:
    """What a dead owner left: the process id that names the connection to `script`, and what it was given."""

    pid: int
    script: str
    given: HostConfig


class TakenError(RefusedError):
    """Another process has the device: `pid`, None where that is not known."""

    def __init__(self, tunnel: str, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        hint = "another name with -i" + ("" if pid is None else f", or: kill {pid}")
        super().__init__(f"{tunnel}: qosctl connect runs on it already, as {who}", hint)
        self.pid = pid


class UndoJournal:
    """One device's file. `claim` makes it, `write` says what is to be undone, `forget` ends it."""

    def __init__(self, file: LockedFile) -> None:
        self._file = file

    @classmethod
    def claim(cls, tunnel: str) -> UndoJournal:
        """Take the device `tunnel`. TakenError when another process has it; OSError where there is no place for it."""
        try:
            file = LockedFile.claim(tunnel)
        except HeldError as error:
            owner = error.document.get("pid")
            raise TakenError(tunnel, owner if isinstance(owner, int) else None) from None
        try:
            file.store({"pid": os.getpid()})
        except BaseException:
            file.leave()
            raise
        return cls(file)

    def write(self, left: Leftover) -> None:
        """Remember what is to be undone from now on. OSError where there is no room: then it is what it was."""
        self._file.store({"pid": left.pid, "script": left.script, "given": vpnc_environment.document(left.given)})

    def forget(self) -> None:
        """All is undone. Twice is fine."""
        self._file.forget()

    def leave(self) -> None:
        """Close it here; another process that had it opened goes on."""
        self._file.leave()


def orphaned() -> Iterator[tuple[UndoJournal, Leftover | None]]:
    """Yield this namespace's files whose owner has died, locked; None where nothing was to be undone."""
    for file in orphans():
        if NAME_OR_EMPTY.match(file.name):
            yield UndoJournal(file), _remains(file.read())


def _remains(read: dict[str, Any]) -> Leftover | None:
    pid, script = read.get("pid"), read.get("script")
    if not isinstance(pid, int) or not isinstance(script, str):
        return None
    try:
        return Leftover(pid, script, vpnc_environment.from_document(read.get("given")))
    except ValueError:
        return None
