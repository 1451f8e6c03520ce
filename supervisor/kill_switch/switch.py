"""One client's kill switch: it holds what the server's routes put inside, from before they are set to the wanted end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from qosctl.dtls.host_config import HostConfig
from qosctl.supervisor.kill_switch import kernel
from qosctl.supervisor.kill_switch.held import Owner, Slot, ownerless
from qosctl.supervisor.kill_switch.plan import Inside, inside, plan


class KillSwitch:
    """Tell it what each session gives. Where the kernel refuses, `warn` gets one line, and the tunnel goes on without."""

    def __init__(self, server: str, warn: Callable[[str], None]) -> None:
        """`server` is what the user calls it: what a client to the same one has left held is taken over."""
        self._server = server
        self._warn = warn
        self._slot: Slot | None = None
        self._inside: dict[int, Inside] = {}
        self._tunnel = ""
        self._complained = False
        self._off = False

    @property
    def holds(self) -> bool:
        """Whether what belongs inside is held."""
        return self._slot is not None

    def hold(self, given: HostConfig) -> None:
        """Make the kernel hold what `given` puts inside, before any route follows it; again: put right what is missing.

        An IP version that the tunnel had and the session has not stays blocked: its packets would leave in clear.
        """
        if self._off:
            return
        self._tunnel = given.tunnel
        first = self._slot is None
        try:
            device = _index(given.tunnel)
            found = inside(given, kernel.addresses_beside(device))
            self._inside |= found
            slot = self._slot = self._slot or Slot.claim()
            if first:
                slot.write(Owner(given.tunnel, self._server, given.gateway))
            checking = kernel.checks_sources(given.gateway)
            wanted = plan(slot.number, self._inside, found, given.gateway, marked=checking is None)
            refused = kernel.enforce(slot.number, wanted, device)
            if first:
                self._take_over(slot)
        except OSError as error:
            self._complain(f"what belongs in {given.tunnel} may leave by another way: {error.strerror}")
            if first:
                self._give_up()
        else:
            if checking is not None:
                self._complain(
                    f"{checking} drops what comes back another way than it would go (rp_filter): whatever goes to"
                    f" {given.gateway} leaves outside of {given.tunnel} (try: sysctl net.ipv4.conf.all.rp_filter=2)"
                )
            if refused and not first:
                versions = " and ".join(f"IPv{version}" for version in refused)
                self._complain(f"{given.tunnel} takes no {versions}: what of it belongs inside is blocked")

    def lift(self) -> None:
        """The user has ended the tunnel: block nothing any more. A second call does nothing."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        try:
            kernel.lift(slot.number)
        except OSError as error:
            slot.leave()
            self._warn(f"what belonged in {self._tunnel} is still blocked: {error.strerror} (try: qosctl unblock)")
        else:
            slot.forget()

    def leave(self) -> None:
        """The tunnel is gone against the user's will: what belonged inside stays blocked. A second call does nothing."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.leave()
            self._warn(f"what belonged in {self._tunnel} is blocked until it is connected again (try: qosctl unblock)")

    def _take_over(self, own: Slot) -> None:
        """Remove the rules that an earlier client of this tunnel has left, now that ours are there."""
        for slot, owner in ownerless():
            if slot.number != own.number and owner is not None and self._server == owner.server:
                kernel.lift(slot.number)
                slot.forget()

    def _give_up(self) -> None:
        """The kernel refuses: half of it is worse than nothing."""
        self._off = True
        slot, self._slot = self._slot, None
        if slot is not None:
            with suppress(OSError):
                kernel.lift(slot.number)
            slot.forget()

    def _complain(self, line: str) -> None:
        if not self._complained:
            self._complained = True
            self._warn(line)


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device) if device else 0
    except OSError:
        return 0
