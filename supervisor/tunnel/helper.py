"""The process that makes a tunnel's changes to the machine, and undoes them when its client ends, however that was.

    client ----- requests, its sockets ---------------> helper
           <---- answers; device, ring and switch ----

Each client has one, forked before any byte of the network or of a secret is read. The device, the flow's entry, routes
and DNS are the helper's. It has a session of its own, so neither Ctrl-C nor a terminal that closes reaches it. It reads
nothing but the socket (`helper_requests`), and ends when that does, after bounded time.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from qosctl.bpf.errors import InternalError, RefusedError
from qosctl.supervisor.process import privileges, system_calls
from qosctl.supervisor.tunnel import helper_messages
from qosctl.supervisor.tunnel.flow_marker import FlowMarker
from qosctl.supervisor.tunnel.helper_device import HelperDevice
from qosctl.supervisor.tunnel.helper_requests import RequestServer
from qosctl.supervisor.tunnel.undo_journal import UndoJournal
from qosctl.supervisor.tunnel.vpnc_script import CLOSE_S, Script

_ENTRY_PATIENCE_S = 5.0
"""How long the flow's entry may keep the end waiting, where another command holds the lock."""
_END_S = CLOSE_S + _ENTRY_PATIENCE_S + 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Helper:
    """The client's end: a socket to the other process, which `start` begins and `end` waits for."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self._pid = pid
        self.connection = connection

    @classmethod
    def start(
        cls,
        device: HelperDevice,
        marker: FlowMarker,
        script: Script | None,
        journal: UndoJournal | None,
        warn: Callable[[str], None],
    ) -> Helper:
        """Fork: the objects work on in the child alone, which tells `warn`. No thread may run yet."""
        ours, theirs = helper_messages.pair()
        gc.freeze()  # memory that both have now stays shared, unless the collector writes into it
        pid = os.fork()
        if pid:
            theirs.close()
            if journal is not None:
                journal.leave()
            return cls(pid, ours)
        status = os.EX_SOFTWARE
        try:
            ours.close()
            _settle_down()
            with ExitStack() as undo:
                _promise(undo, device, marker, script, journal)
                RequestServer(theirs, device, marker, script, warn).serve()
            status = os.EX_OK
        except Exception as error:  # the last place where a fault of ours can become one line
            warn(f"its helper has ended: {InternalError.of(error)}")
        finally:
            os._exit(status)

    def end(self) -> None:
        """Let the other process undo what is left, and wait for it."""
        self.connection.close()
        deadline = time.monotonic() + _END_S
        with suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.005)


def _settle_down() -> None:
    """Become a background process: a session of its own, without the terminal or pipes of the command that started us."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1):  # the password comes from one; a reader of the other waits for its end
        os.dup2(nothing, each)
    os.close(nothing)
    # A stop of all of a unit's processes reaches us too: we go when the client has gone. Not SIG_IGN, which the script
    # would inherit.
    with suppress(OSError):  # a kernel without it: nothing is promised there, and the tunnel matters more
        privileges.limit(privileges.HELPERS)
    with suppress(RefusedError):  # the client, on the same machine, says why
        system_calls.give_up(system_calls.HELPERS, foreign=True)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)


def _promise(
    undo: ExitStack, device: HelperDevice, marker: FlowMarker, script: Script | None, journal: UndoJournal | None
) -> None:
    """Note what is to be undone at the end: routes and DNS first, while the device is there; the device last."""
    undo.callback(device.close)
    undo.callback(marker.close, _ENTRY_PATIENCE_S)
    if script is not None:
        undo.callback(script.close, asked=False)  # nothing happens where the client has closed it
    elif journal is not None:
        undo.callback(journal.forget)
