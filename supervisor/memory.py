"""What has to be undone for a tunnel whose process died: a small file for each tunnel device, locked by its owner.

    /run/qosctl/<network namespace cookie>-<device>     0600: {"pid": ..., "script": ..., "given": {...}}

The lock goes with its process. A file that nobody has locked therefore belongs to the dead, and the next start reads in it
what to undo. /run is empty after a reboot, and so are the routes.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qosctl.bpf import netns
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.surroundings import Given
from qosctl.supervisor import vpnc

_FOLDER = Path("/run/qosctl")
_BYTES_MAX = 1 << 17
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Remains:
    """What a dead owner left: the process id that names the connection to `script`, and what it was given."""

    pid: int
    script: str
    given: Given


class Memory:
    """One device's file. `claim` makes it, `write` says what is to be undone, `forget` ends it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def claim(cls, tunnel: str) -> Memory:
        """Take the device `tunnel`. RefusedError when another process has it; OSError where there is no place for it."""
        folder = _folder()
        folder.mkdir(mode=0o755, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(1, "others could change it", str(folder))
        path = folder / f"{netns.cookie()}-{tunnel}"
        while True:
            descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _read(descriptor).get("pid")
                os.close(descriptor)
                who = f"process {owner}" if isinstance(owner, int) else "another process"
                hint = f"another name with -i, or: kill {owner}" if isinstance(owner, int) else "another name with -i"
                raise RefusedError(f"{tunnel}: qosctl connect runs on it already, as {who}", hint) from None
            if os.fstat(descriptor).st_nlink:
                memory = cls(path, descriptor)
                memory._store({"pid": os.getpid()})
                return memory
            os.close(descriptor)  # its last owner was just taking it away

    def write(self, remains: Remains) -> None:
        """Remember what is to be undone from now on."""
        self._store({"pid": remains.pid, "script": remains.script, "given": vpnc.document(remains.given)})

    def forget(self) -> None:
        """All is undone. Twice is fine."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            self.leave()

    def leave(self) -> None:
        """Close it here; another process that had it opened goes on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _store(self, document: dict[str, Any]) -> None:
        # Longer than what was there, or not: the tail is cut before anything else may be read in its place.
        text = json.dumps(document).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def dead() -> Iterator[tuple[Memory, Remains | None]]:
    """Yield this namespace's files that nobody owns any more, locked; None where nothing was to be undone."""
    mine = f"{netns.cookie()}-"
    try:
        names = sorted(path for path in _folder().iterdir() if path.name.startswith(mine))
    except OSError:
        return
    for path in names:
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:
            continue
        memory = Memory(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            memory.leave()
            continue
        # Whose file it is decides whether what is in it may be run.
        if _is_ours(os.fstat(descriptor)):
            yield memory, _remains(_read(descriptor))
        memory.leave()


def _folder() -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY") or _FOLDER)  # systemd's, RuntimeDirectory=


def _is_ours(status: os.stat_result) -> bool:
    others = stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not others and status.st_nlink == 1


def _read(descriptor: int) -> dict[str, Any]:
    try:
        read = json.loads(os.pread(descriptor, _BYTES_MAX, 0))
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _remains(read: dict[str, Any]) -> Remains | None:
    pid, script = read.get("pid"), read.get("script")
    if not isinstance(pid, int) or not isinstance(script, str):
        return None
    try:
        return Remains(pid, script, vpnc.from_document(read.get("given")))
    except ValueError:
        return None
