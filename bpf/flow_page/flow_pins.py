"""What is pinned for a flow: its ring, and its owner.

    <state>/flows/<the ring's id>/      ring, and `owner`: a link that leads nowhere, whose target names the owner
                                        (bpffs keeps no other text)

The helper, which is root's, writes this. The client, which may have been taken over, cannot: it writes its ring's page
alone (statistics.py), and nothing is decided by that.

The owner holds the folder's lock (flock(2)), which the kernel takes back with the last descriptor. So whether an owner
lives is known without its process id and without /proc, which other pid namespaces and hidepid= hide. A reader tries for a
shared lock, so several may ask at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.printable import one_line

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Owner:
    """Whose a flow is: process id (in its own pid namespace, to be shown and no more), when it came (Unix nanoseconds), the
    tunnel's device, the server.
    """

    pid: int
    created: int
    tunnel: str
    server: str


NOBODY = Owner(0, 0, "unknown", "unknown")


@dataclass(frozen=True)
class FlowPins:
    """The folder `flows` of one namespace's state. Its writers hold the state's lock."""

    path: Path

    def create(self, ring_fd: int, ring_id: int, owner: Owner) -> int:
        """Pin a ring, and return the descriptor whose lock says that the owner lives."""
        path = self._of(ring_id)
        new = bpffs.building_place(path)
        new.mkdir(mode=0o700)
        syscall.obj_pin(ring_fd, str(new / "ring"))
        (new / "owner").symlink_to(json.dumps(asdict(owner)))
        lock = os.open(new, _FOLDER)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(path)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def remove(self, ring_id: int) -> None:
        """Take the pins away; none there is fine."""
        bpffs.discard(self._of(ring_id))

    def ids(self) -> Iterator[int]:
        """Yield the ids of the pinned rings."""
        return (int(path.name) for path in self.path.iterdir() if path.name.isdigit())

    def open_ring(self, ring_id: int) -> int:
        """Open a ring; FileNotFoundError where it has gone."""
        return syscall.obj_get(str(self._of(ring_id) / "ring"))

    def owner(self, ring_id: int) -> Owner:
        """Return whose a ring is, fit to be shown; NOBODY where nothing sensible says so."""
        try:
            said = json.loads(os.readlink(self._of(ring_id) / "owner"))  # noqa: PTH115 - no path comes out
            return Owner(int(said["pid"]), int(said["created"]), one_line(said["tunnel"]), one_line(said["server"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return NOBODY

    def alive(self, ring_id: int) -> bool:
        """Whether the owner lives."""
        try:
            folder = os.open(f"{self.path}/{ring_id}", _FOLDER)  # a scrape asks of each flow, and pathlib takes its time
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(folder)
        return False

    def _of(self, ring_id: int) -> Path:
        return self.path / str(ring_id)
