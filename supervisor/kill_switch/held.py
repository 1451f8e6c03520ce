"""Whose each table is: a locked file for each, which says what it holds when its process is gone.

/run/qosctl/<network namespace cookie>-table:<table>     {"tunnel": ..., "server": ..., "gateway": ...}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from qosctl.dtls.transport.netdev import NAME_OR_EMPTY
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.plan import SLOTS, table_of
from qosctl.supervisor.process.locked_file import TABLE_FILES, HeldError, LockedFile, is_claimed, orphans


@dataclass(frozen=True)
class Owner:
    """Whose a table is: the device's name, the server by the name that the user gave it, and its address."""

    tunnel: str
    server: str
    gateway: IPv4Address | IPv6Address


class Slot:
    """A slot of this process's own. `write` says whose it is; `forget` gives it back, `leave` keeps what it says."""

    def __init__(self, number: int, file: LockedFile | None) -> None:
        """`file` is None where there was no place for one."""
        self.number = number
        self._file = file

    @classmethod
    def claim(cls) -> Slot:
        """Take the first slot that neither a process nor anything in the kernel has. OSError where there is none left."""
        taken = kernel.held()
        for number in range(SLOTS):
            if number in taken:
                continue
            try:
                return cls(number, LockedFile.claim(f"{TABLE_FILES}{table_of(number)}"))
            except HeldError:
                continue
            except OSError:  # no place for a file: what is in the kernel keeps others off
                return cls(number, None)
        raise OSError(None, f"{SLOTS} tunnels hold what belongs in them already")

    def write(self, owner: Owner) -> None:
        """Say whose it is. OSError where there is no room for that."""
        if self._file is not None:
            document = {"tunnel": owner.tunnel, "server": owner.server, "gateway": str(owner.gateway)}
            self._file.store(document)

    def forget(self) -> None:
        """Nothing is held any more."""
        if self._file is not None:
            self._file.forget()

    def leave(self) -> None:
        """Give up ownership: the rules stay, for the next client or `unblock`."""
        if self._file is not None:
            self._file.leave()


def is_owned(slot: int) -> bool:
    """Whether a living process has the slot's file."""
    return is_claimed(f"{TABLE_FILES}{table_of(slot)}")


def ownerless() -> Iterator[tuple[Slot, Owner | None]]:
    """Yield the slots whose process is gone, locked while they are looked at; None where nothing says whose they were.

    A tunnel whose device is there lives on, whatever has become of the process that holds for it.
    """
    for file in orphans():
        text = file.name.removeprefix(TABLE_FILES)
        if not file.name.startswith(TABLE_FILES) or not text.isdecimal():
            continue
        number = int(text) - table_of(0)
        if number in range(SLOTS) and not kernel.carried(number):
            yield Slot(number, file), _owner(file.read())


def _owner(read: dict[str, Any]) -> Owner | None:
    tunnel, server, gateway = read.get("tunnel"), read.get("server"), read.get("gateway")
    if not isinstance(tunnel, str) or not isinstance(server, str) or not isinstance(gateway, str):
        return None
    if not NAME_OR_EMPTY.match(tunnel):
        return None
    try:
        return Owner(tunnel, server, ip_address(gateway))
    except ValueError:
        return None
