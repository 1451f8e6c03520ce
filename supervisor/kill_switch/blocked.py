"""Destinations that stay blocked after their tunnel has died: the kernel has the rules, a file names the tunnel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qosctl.dtls.vpn.host_routes import Net
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.held import Owner, is_owned, ownerless
from qosctl.supervisor.kill_switch.plan import table_of
from qosctl.supervisor.process.locked_file import sweep

_SHOWN = 4


@dataclass(frozen=True)
class Blocked:
    """What a tunnel that is gone has left blocked. `owner` is None where nothing says whose it was."""

    slot: int
    nets: Sequence[Net]
    owner: Owner | None

    def __str__(self) -> str:
        """Say what, and whose it was."""
        nets = ", ".join(map(str, self.nets[:_SHOWN])) + (", ..." if len(self.nets) > _SHOWN else "")
        whose = f"{self.owner.tunnel} to {self.owner.server}" if self.owner else f"table {table_of(self.slot)}"
        return f"{nets or 'nothing more'} (of {whose})"


def blocked() -> list[Blocked]:
    """Return what no living tunnel holds. OSError where the kernel does not say."""
    owners = {slot.number: owner for slot, owner in ownerless()}
    return [
        Blocked(slot, nets, owners.get(slot))
        for slot, nets in kernel.held().items()
        if slot in owners or not (is_owned(slot) or kernel.carried(slot))
    ]


def unblock() -> list[Blocked]:
    """Lift what no living tunnel holds, and return what that was. OSError where the kernel refuses."""
    sweep()
    found = blocked()
    for slot, _ in ownerless():  # locked meanwhile: no new tunnel can have it
        kernel.lift(slot.number)
        slot.forget()
    for each in found:
        if each.owner is None and not is_owned(each.slot) and not kernel.carried(each.slot):
            kernel.lift(each.slot)
    return found
