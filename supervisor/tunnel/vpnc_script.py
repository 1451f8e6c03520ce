"""Runs vpnc-script, which sets the machine's addresses, routes and DNS: one call after another, in a separate thread.

    prepare                  pre-init
    apply                    connect; again: reconnect, or, where the server gave something else, disconnect and connect
    attempt                  attempt-reconnect; disconnect, once, when there has been no session for long
    close                    disconnect

Before a call that changes anything, what undoes it is in the journal (see `undo_journal`); after the disconnect it goes.
What belongs inside is held there (see `kill_switch`) from before the first connect until the user wants the end.
"""

from __future__ import annotations

import os
import queue
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from qosctl.bpf.errors import InternalError, RefusedError, UntrustedError, UsageError
from qosctl.bpf.kernel import trusted_folders
from qosctl.dtls.host_config import HostConfig
from qosctl.supervisor.kill_switch.switch import KillSwitch
from qosctl.supervisor.tunnel.undo_journal import Leftover, UndoJournal, orphaned
from qosctl.supervisor.tunnel.vpnc_environment import environment

NONE = "none"
USUAL = (Path("/usr/share/vpnc-scripts/vpnc-script"), Path("/etc/vpnc/vpnc-script"))
"""Where distributions put it."""
PATIENCE_S = 30.0
"""A call that takes longer is ended."""
CLOSE_S = 2 * PATIENCE_S
_ATTEMPT_PAUSE_S = 1.0
"""At least between two calls for attempts: what a script changes is news of the network, which brings the next attempt."""
OUTAGE_S = 20.0
"""Without a session for so long: the names of before are wanted, for the server may have moved."""
_OPEN_MAX = 8
"""Calls that may wait for a script that hangs; beyond, those are left out that set nothing new, however sessions flap."""


def choose(wanted: str | None) -> str:
    """Return the script to run, or NONE. UsageError for a path that is none, RefusedError for what cannot be run.

    `wanted` is None where the user named none: then it is the distribution's, where that is installed.
    """
    if wanted is None:
        return next((str(path) for path in USUAL if os.access(path, os.X_OK)), NONE)
    if wanted == NONE:
        return NONE
    if not wanted:
        raise UsageError("--script: no file is named", "--script none, for only an address")
    path = Path(wanted).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise RefusedError(f"{wanted}: no script that can be run", f"ls -l {wanted}")
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(f"{wanted}: others than its owner can change it", f"chmod go-w {wanted}")
    _unchanging(str(path))
    return str(path)


def _unchanging(path: str) -> str:
    """Return where a script really is, if only root, we, and the caller of sudo can change what is run there.

    Checked before each run: a tunnel lives for months, and the journal of a dead one may name a script that has gone from
    /tmp since. UntrustedError, OSError.
    """
    real = Path(path).resolve()
    caller = os.environ.get("SUDO_UID", "")
    trusted_folders.check_file(real, of=int(caller) if caller.isdecimal() else None)
    return str(real)


class Script:
    """Satisfies qosctl.dtls.host_config.HostConfigurator. Every call but `settle` and `close` returns at once.

    `warn` gets one line where a call fails. The thread starts with the first call, so that the object may be made before
    a fork.
    """

    def __init__(
        self,
        path: str,
        journal: UndoJournal | None,
        pid: int,
        warn: Callable[[str], None],
        switch: KillSwitch | None = None,
    ) -> None:
        """`journal` is the claimed device's, None where that is known only when it is there."""
        self._path = path
        self._journal = journal
        self._pid = pid
        self._warn = warn
        self._switch = switch
        self._given: HostConfig | None = None
        self._attempted = -_ATTEMPT_PAUSE_S
        self._lost_at: float | None = None
        self._undone = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None

    def prepare(self, given: HostConfig) -> None:
        """Call for pre-init."""
        self._call("pre-init", given)

    def apply(self, given: HostConfig) -> None:
        """Call for what the new session takes."""
        before, self._given = None if self._undone else self._given, given
        self._lost_at, self._undone = None, False
        self._remember(given)
        same = before is not None and (before.addresses, before.network) == (given.addresses, given.network)
        if same and self._open >= _OPEN_MAX:
            return
        self._hold(given)
        if before is None:
            if given.network.discarded:
                self._warn(f"{given.network.discarded} of the server's routes are left out: none that a VPN may set")
            self._call("connect", given)
        elif same:
            self._call("reconnect", given)
        else:
            self._call("disconnect", before)
            self._call("connect", given)
        self._hold(given)  # a script that sets the device down has taken its routes away

    def attempt(self) -> None:
        """Call for an attempt, if the last call for one is not too recent."""
        now = time.monotonic()
        if self._given is None or self._undone or now - self._attempted < _ATTEMPT_PAUSE_S or self._open >= _OPEN_MAX:
            return
        self._attempted = now
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at < OUTAGE_S or self._switch is None or not self._switch.holds:
            self._call("attempt-reconnect", self._given)
            self._hold(self._given)
            return
        # What the tunnel's name servers knew is out of reach with them. What belongs inside is held: it does not get out.
        self._undone = True
        self._warn("no session for long: routes and DNS are those of before until there is one again")
        self._call("disconnect", self._given)

    @property
    def open_calls(self) -> int:
        """How many calls are begun or wait."""
        return self._open

    def settle(self, seconds: float) -> bool:
        """Wait until no call is open."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._open, seconds)

    def close(self, *, asked: bool) -> None:
        """Undo, and forget what was to be undone. What belongs inside is held on unless the end was `asked` for."""
        given, self._given = self._given, None
        if given is not None:
            if not self._undone:
                self._call("disconnect", given)
            settled = self.settle(CLOSE_S)
            if self._switch is not None:
                self._switch.lift() if asked else self._switch.leave()
            if not settled:
                return  # what is remembered stays, for the next start
        if self._journal is not None:
            self._journal.forget()
            self._journal = None

    def _remember(self, given: HostConfig) -> None:
        try:
            if self._journal is None:
                self._journal = UndoJournal.claim(given.tunnel)
            self._journal.write(Leftover(self._pid, self._path, given))
        except (OSError, RefusedError) as error:
            self._warn(f"routes and DNS would stay after a crash: {error}")

    def _call(self, reason: str, given: HostConfig) -> None:
        self._do(partial(self._run, reason, given))

    def _hold(self, given: HostConfig) -> None:
        if self._switch is not None:
            self._do(partial(self._switch.hold, given))

    def _do(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="script", daemon=True)
            self._thread.start()
        with self._idle:
            self._open += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # the last place where a fault of ours can become one line
                self._warn(str(InternalError.of(error)))
            finally:
                with self._idle:
                    self._open -= 1
                    self._idle.notify_all()

    def _run(self, reason: str, given: HostConfig) -> None:
        try:
            failure = run_script(self._path, reason, given, self._pid)
        except UntrustedError as error:
            failure = f"not run: {error}"
        except OSError as error:
            failure = error.strerror or str(error)
        if failure:
            self._warn(f"{self._path}: {reason}: {failure}")


def run_script(path: str, reason: str, given: HostConfig, pid: int, *, quiet: bool = False) -> str:
    """Run the script once, without a shell, and wait; returns what went wrong, empty when nothing did.

    What it prints goes to our stderr, unless `quiet`. OSError where it cannot be started, UntrustedError where others could
    have changed it.
    """
    process = subprocess.Popen(
        [_unchanging(path)],
        env=environment(reason, given, pid, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else 2,
        stderr=subprocess.DEVNULL if quiet else None,
        start_new_session=True,  # a Ctrl-C is for us: the script is to finish
        # SIGPIPE stays ignored, as it is in what systemd starts: nobody may be reading what the script says, and the shell
        # would end half-way through its work.
        restore_signals=False,
    )
    try:
        status = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"not done after {PATIENCE_S:.0f} s"
    return "" if status == 0 else f"exit status {status}"


def undo_for_orphans(warn: Callable[[str], None]) -> None:
    """Undo what processes that were killed had the script do in this network namespace."""
    for journal, left in orphaned():
        if left is not None:
            warn(f"undoing the routes and DNS of {left.given.tunnel}, whose client was killed")
            try:
                # Its device is gone, and half of what it would undo with it: the complaints mean nothing.
                run_script(left.script, "disconnect", left.given, left.pid, quiet=True)
            except UntrustedError as error:
                warn(f"{left.script}: not run: {error}")
            except OSError as error:
                warn(f"{left.script}: {error.strerror}")
        journal.forget()
