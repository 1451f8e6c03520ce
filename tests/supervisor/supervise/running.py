"""The installed `qosctl supervise` in a namespace, with a service manager's socket to hear from it."""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from tests.lab import LabError, Namespace, end
from tests.lab.memory import children, together_kb
from tests.lab.qosctl import COMMAND

PATIENCE = 30.0  # seconds; only a failure takes that long


class Supervised:
    """A supervisor with `config` as its file. In the block it has said READY. `journal`: it takes its log for that."""

    def __init__(
        self, namespace: Namespace, folder: Path, config: str, watchdog_s: float | None = None, *, journal: bool = False
    ) -> None:
        self._namespace = namespace
        self.file = folder / "qosctl.toml"
        self.file.write_text(config)
        self._manager = folder / "notify"
        self._watchdog_s = watchdog_s
        self._journal = journal

    def __enter__(self) -> Self:
        self._manager.unlink(missing_ok=True)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(self._manager))
        self._notices.setblocking(False)
        self.notices: list[str] = []
        self._err: IO[bytes] = tempfile.TemporaryFile()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self._notices.close()
        self._err.close()

    def start(self, *, wait: bool = True) -> None:
        """Start it, again if it was killed, and wait until it is ready."""
        environment = {**os.environ, "NOTIFY_SOCKET": str(self._manager)}
        if self._watchdog_s is not None:
            environment["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        if self._journal:
            log = os.fstat(self._err.fileno())
            environment["JOURNAL_STREAM"] = f"{log.st_dev}:{log.st_ino}"
        argv = [str(COMMAND), "supervise", "--config", str(self.file)]
        self.hear()
        ready = self.count("READY=1")
        self.process = self._namespace.popen(argv, stderr=self._err, env=environment)
        if wait:
            self.wait(lambda: self.count("READY=1") > ready)

    def reload(self, config: str | None = None) -> None:
        """Change the file and say so, as `systemctl reload` does, and wait until it is done."""
        if config is not None:
            self.file.write_text(config)
        ready = self.count("READY=1")
        self.process.send_signal(signal.SIGHUP)
        self.wait(lambda: self.count("READY=1") > ready)

    def kill(self) -> None:
        """Kill it with its worker, as a service manager does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def killed_often(self, times: int, config: str, chance: random.Random, pause_s: float) -> None:
        """Kill and start it, at random moments within `pause_s`; each time another hook is wanted. At last it is dead."""
        for n in range(times):
            self.kill()
            self.file.write_text(config + f'hook = "{("clsact", "tcx")[n % 2]}"\n')
            self.start(wait=False)
            time.sleep(chance.uniform(0, pause_s))
        self.kill()

    def count(self, line: str) -> int:
        """Return how many notices had that line."""
        self.hear()
        return sum(line in notice.splitlines() for notice in self.notices)

    def hear(self) -> None:
        """Take in what it told its manager."""
        while True:
            try:
                self.notices.append(self._notices.recv(4096).decode())
            except BlockingIOError:
                return

    @property
    def log(self) -> list[str]:
        """What it has said so far."""
        return os.pread(self._err.fileno(), 1 << 20, 0).decode().splitlines()

    def says_more_than(self, lines: int) -> None:
        """Wait until its log has more lines than so many."""
        self.wait(lambda: len(self.log) > lines)

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process and its children's."""
        return self.process.pid, *children(self.process.pid)

    @property
    def cpu_s(self) -> float:
        """CPU time so far, that of its children included."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids]
        return sum(sum(map(int, each[11:15])) for each in fields) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_kb(self) -> int:
        """What it and its children take, with what they share counted once."""
        return together_kb(*self.pids)

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def wait(self, so: Callable[[], bool], patience: float = PATIENCE) -> float:
        """Wait until something is so, and return how long that took."""
        started = time.monotonic()
        while not so():
            if self.process.poll() is not None:
                raise LabError(f"qosctl supervise ended with {self.process.returncode}: {self.log}")
            if time.monotonic() - started > patience:
                raise LabError(f"waited {patience} s in vain; the supervisor said {self.log}")
            time.sleep(0.005)
        return time.monotonic() - started
