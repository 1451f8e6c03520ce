"""Where a client stands: what it marks with, who sets routes and names, whose it is, and what the dead left undone before.

root, no --setuid    marker and script in this process
root, --setuid       marker and script in a steward, which stays root; this process becomes the user
another user         marker and script in this process, with the capabilities it was started with
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qosctl.dtls.surroundings import Surroundings
from qosctl.supervisor import privileges, vpnc
from qosctl.supervisor.kill_switch.held import ownerless
from qosctl.supervisor.kill_switch.switch import KillSwitch
from qosctl.supervisor.marker import FlowMarker
from qosctl.supervisor.memory import Memory
from qosctl.supervisor.remote import Remote, RemoteMarker, RemoteScript
from qosctl.supervisor.script import NONE, Script, undo_for_the_dead
from qosctl.supervisor.steward import Steward


@dataclass(frozen=True)
class Standing:
    """What the client is given. `surroundings` is None for only an address."""

    marker: FlowMarker | RemoteMarker
    surroundings: Surroundings | None
    known: str | None
    """The server's address, where an earlier client has left what belongs inside blocked: its name may be, too."""


@contextmanager
def stand(  # noqa: PLR0913  (who, where, by which means)
    server: str, tunnel: str | None, script: str, warn: Callable[[str], None], *, apart: bool, guarded: bool
) -> Iterator[Standing]:
    """Undo for the dead, and claim the device; at the end, all that was done is undone.

    `script` is what `script.choose` returned. With `apart` a steward is begun, and this process may become whoever it
    likes; secrets are better read afterwards. With `guarded` what belongs inside is held there. RefusedError when another
    client has the device `tunnel`.
    """
    undo_for_the_dead(warn)
    known = _look_for_held(server, warn)
    memory = _claim(tunnel)
    marker = FlowMarker(server, warn)
    switch = KillSwitch(server, warn) if guarded else None
    runner = None if script == NONE else Script(script, memory, marker.pid, warn, switch)
    privileges.keep_secrets()
    if not apart:
        try:
            yield Standing(marker, runner, known)
        finally:
            if runner is not None:
                runner.close(asked=False)  # nothing happens where the client has closed it
            elif memory is not None:
                memory.forget()
        return
    steward = Steward.start(marker, runner, memory)
    try:
        remote = Remote(steward.connection, warn)
        yield Standing(RemoteMarker(remote), None if runner is None else RemoteScript(remote), known)
    finally:
        steward.end()


def _look_for_held(server: str, warn: Callable[[str], None]) -> str | None:
    """Return the address of a server whose tunnel is held for nobody; of another's, say that it is in the way."""
    known = None
    for _, owner in ownerless():
        if owner is not None and owner.server == server:
            known = str(owner.gateway)
        elif owner is not None:
            warn(f"what belonged in {owner.tunnel}, to {owner.server}, is still blocked (try: qosctl unblock)")
    return known


def _claim(tunnel: str | None) -> Memory | None:
    """Take the device that was asked for. Without a place for the file the kernel alone keeps others off the device."""
    if tunnel is None or not vpnc.DEVICE.match(tunnel):  # the client will say what is wrong with it
        return None
    try:
        return Memory.claim(tunnel)
    except OSError:
        return None
