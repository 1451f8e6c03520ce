"""The two halves of a tunnel, by privilege. Before they part, what a killed client left behind is undone.

client     the network, the packets, the secrets
helper     the device, the flow's entry, routes and DNS (see `helper`), for each client, however it ends
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from qosctl.bpf.errors import QosctlError
from qosctl.bpf.kernel import bpffs
from qosctl.dtls.host_config import HostConfigurator
from qosctl.dtls.transport.netdev import NAME_OR_EMPTY
from qosctl.supervisor.kill_switch.held import ownerless
from qosctl.supervisor.kill_switch.switch import KillSwitch
from qosctl.supervisor.process import privileges
from qosctl.supervisor.tunnel.flow_marker import FlowMarker
from qosctl.supervisor.tunnel.helper import Helper
from qosctl.supervisor.tunnel.helper_client import HelperClient, RemoteDevice, RemoteMarker, RemoteScript
from qosctl.supervisor.tunnel.helper_device import HelperDevice
from qosctl.supervisor.tunnel.helper_sockets import RemoteSockets
from qosctl.supervisor.tunnel.undo_journal import TakenError, UndoJournal
from qosctl.supervisor.tunnel.vpnc_script import NONE, Script, undo_for_orphans

UNDOING_S = 10.0
"""How long to wait for a dead client's helper."""
_LOOK_S = 0.05


@dataclass(frozen=True)
class ClientSide:
    """What the client is given. `configurator` is None for only an address."""

    keeper: RemoteDevice
    marker: RemoteMarker
    sockets: RemoteSockets
    configurator: HostConfigurator | None
    known: str | None
    """The server's address, where an earlier client has left what belongs inside blocked: its name may be, too."""


@contextmanager
def stand(
    server: str, tunnel: str | None, script: str, warn: Callable[[str], None], *, guarded: bool
) -> Iterator[ClientSide]:
    """Undo what killed clients left, claim the device, and start a helper; at the end, undo all that was done.

    `script` is what `vpnc_script.choose` returned. This process may then change its user; secrets are better read
    afterwards. With `guarded`, what belongs inside is kept there. RefusedError when another client has the device `tunnel`.
    """
    journal = _claim(tunnel, warn)
    known = _look_for_held(server, warn, guarded=guarded)
    owner = os.getpid()
    marker = FlowMarker(server, owner, warn)
    switch = KillSwitch(server, warn) if guarded else None
    runner = None if script == NONE else Script(script, journal, owner, warn, switch)
    with suppress(QosctlError):  # where marking is not possible, the marker tells
        bpffs.ensure_mounted()  # takes a privilege that the helper does not keep
    privileges.keep_secrets()
    helper = Helper.start(HelperDevice(tunnel), marker, runner, journal, warn)
    try:
        remote = HelperClient(helper.connection, warn)
        around = None if runner is None else RemoteScript(remote)
        with closing(RemoteSockets(remote, needed=guarded)) as sockets:
            yield ClientSide(RemoteDevice(remote), RemoteMarker(remote), sockets, around, known)
    finally:
        helper.end()


def _look_for_held(server: str, warn: Callable[[str], None], *, guarded: bool) -> str | None:
    """Return the address of this server if a dead client's tunnel to it is still blocked; warn of all that stays so."""
    known = None
    try:
        for _, owner in ownerless():
            mine = owner is not None and owner.server == server
            if owner is not None and mine:
                known = str(owner.gateway)
            if owner is not None and not (mine and guarded):
                warn(f"what belonged in {owner.tunnel}, to {owner.server}, is still blocked (try: qosctl unblock)")
    except OSError:  # without the privilege to ask the kernel there is nothing to take over
        return None
    return known


def _claim(tunnel: str | None, warn: Callable[[str], None]) -> UndoJournal | None:
    """Undo what killed clients left, and claim the device that was asked for.

    Without a place for the file the kernel alone keeps others off the device.
    """
    deadline = time.monotonic() + UNDOING_S
    while True:
        undo_for_orphans(warn)
        if tunnel is None or not NAME_OR_EMPTY.match(tunnel):  # the client will say what is wrong with it
            return None
        try:
            return UndoJournal.claim(tunnel)
        except OSError:
            return None
        except TakenError as taken:
            if taken.pid is None or _is_there(taken.pid) or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_S)  # for the helper of a client that has just been killed: it undoes what that has done


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True
