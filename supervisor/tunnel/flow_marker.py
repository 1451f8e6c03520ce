"""The real Marker of the DTLS client: a ring of its own, entered in the pinned flow table of this network namespace."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qosctl.bpf.errors import BusyError, NotAttachedError, QosctlError, RefusedError, kernel_errors
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.kernel import bpffs, netns
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import State, create_state, open_state, open_switch, release_state
from qosctl.bpf.maps.ring import Ring
from qosctl.bpf.maps.switch import SwitchReader
from qosctl.dtls.session.marker import FlowMemory

_SOON_S, _LATE_S = 0.02, 0.25
"""How long to wait with the next try of the lock: at first, and when somebody has had it for a second."""
_SILENT_S = 20.0
"""How long somebody may have it before we tell."""
_OUTER = {
    (family, kind, protocol)
    for family in (socket.AF_INET, socket.AF_INET6)
    for kind, protocol in ((socket.SOCK_DGRAM, socket.IPPROTO_UDP), (socket.SOCK_STREAM, socket.IPPROTO_TCP))
}


@dataclass(frozen=True)
class _WantedFlow:
    """The flow to have entered, and since when (time.monotonic())."""

    key: FlowKey
    tunnel: str
    since: float


class FlowMarker:
    """Keeps one flow registered on behalf of process `pid`; satisfies qosctl.dtls.session.marker.Marker.

    Where another command holds the lock of the maps, nothing waits: call `step` now and then until `waiting` is False.
    Where BPF is not to be had, `warn` gets one line and the tunnel works unmarked: fail open.
    """

    def __init__(self, server: str, pid: int, warn: Callable[[str], None]) -> None:
        self._server = server
        self._pid = pid
        self._warn = warn
        self._wanted: _WantedFlow | None = None
        self._ring: Ring | None = None
        self.switch: SwitchReader | None = None
        self._key: FlowKey | None = None
        self.waiting = False
        """Whether what is in the maps is not what is wanted yet."""
        self._complained = False

    def flow_opened(self, outer: int, tunnel: str) -> None:
        """Enter this flow, now if the lock is free. OSError or RefusedError for a socket that is no tunnel's."""
        self._wanted = _WantedFlow(key_of(outer), tunnel, time.monotonic())
        self._begin()

    def memory(self) -> FlowMemory | None:
        """Return where to mark."""
        return None if self._ring is None or self.waiting else FlowMemory(self._ring.marks, self._ring.rtt_requests)

    def flow_closed(self) -> None:
        """Take the flow out, and the maps with it if this was their last use."""
        self._wanted = None
        if self._key is not None or self.waiting:
            self._begin()

    def close(self, patience_s: float) -> None:
        """Take the flow out, if need be after waiting for so long."""
        self.flow_closed()
        deadline = time.monotonic() + patience_s
        while self.waiting and time.monotonic() < deadline:
            time.sleep(_SOON_S)
            self.step()
        if self.waiting:
            self._warn("the flow's entry stays until the next attach or connect: another qosctl is at work")

    def step(self) -> None:
        """Do what is left to do, if the lock is free."""
        if not self.waiting:
            return
        try:
            with kernel_errors("marking"):
                self._enter(self._wanted) if self._wanted is not None else self._leave()
        except BusyError as error:
            self._complain_of(error)
            return
        except QosctlError as error:
            if self._wanted is not None:
                self._warn(f"nothing will be marked: {error}")
            elif not isinstance(error, NotAttachedError):  # nothing there is as good as taken out
                self._warn(f"the flow's entry stays until the next attach or connect: {error}")
            self._let_go()
        self.waiting = False

    def next_step_s(self) -> float:
        """Return how long to wait with the next step."""
        waited = 0.0 if self._wanted is None else time.monotonic() - self._wanted.since
        return _SOON_S if waited < 1 else _LATE_S

    def passtos(self) -> bool:
        """Whether marks leave at present."""
        return not self.waiting and passtos_of(self.switch)

    @property
    def descriptors(self) -> list[int]:
        """The ring's and the switch's, for another process that is to store marks in one and look at the other.

        None without a ring.
        """
        return [] if self._ring is None or self.switch is None or self.waiting else [self._ring.fd, self.switch.fd]

    def _begin(self) -> None:
        self.waiting, self._complained = True, False
        self.step()

    def _complain_of(self, error: BusyError) -> None:
        if self._wanted is not None and not self._complained and time.monotonic() - self._wanted.since > _SILENT_S:
            self._complained = True
            self._warn(f"nothing is marked until that ends: {error}")

    def _enter(self, wanted: _WantedFlow) -> None:
        """Make the maps where there are none, clear flows of dead owners, and enter this one.

        An entry from before is removed first, under the same lock, so that the maps stay.
        """
        owner = Owner(self._pid, time.time_ns(), wanted.tunnel, self._server)
        with bpffs.locked(wait=False):
            create_state()
            try:
                with open_state() as state:
                    state.flows.reap()
                    self._remove_from(state)
                    ring = Ring(owner)
                    try:
                        state.flows.add(wanted.key, ring)
                        self.switch = open_switch()
                    except BaseException:
                        ring.close()
                        raise
                    self._ring, self._key = ring, wanted.key
            except BaseException:
                release_state()
                raise

    def _leave(self) -> None:
        if self._key is None:
            return
        with bpffs.locked(wait=False):
            with open_state() as state:
                self._remove_from(state)
            release_state()

    def _remove_from(self, state: State) -> None:
        if self._key is not None and self._ring is not None:
            state.flows.remove(self._key)
            state.flows.forget(self._ring)
        self._let_go()

    def _let_go(self) -> None:
        if self._ring is not None:
            self._ring.close()
        if self.switch is not None:
            self.switch.close()
        self._ring = self.switch = self._key = None


def key_of(outer: int) -> FlowKey:
    """Return the five-tuple of a connected socket, as the kernel says.

    The client need not be trusted: RefusedError for a socket that no tunnel in this network namespace has, and
    OSError for what is no socket, or not connected.
    """
    with socket_of(outer) as shown:
        if (shown.family, shown.type, shown.proto) not in _OUTER:
            raise RefusedError("a socket that carries no tunnel")
        if netns.cookie_of(shown) != netns.cookie():  # the maker of a namespace chooses any addresses in it
            raise RefusedError("a socket of another network namespace")
        local, remote = shown.getsockname(), shown.getpeername()
    return FlowKey(local[:2], remote[:2])


@contextmanager
def socket_of(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket by a descriptor that stays the caller's; OSError for what is none."""
    shown = socket.socket(fileno=descriptor)
    try:
        yield shown
    finally:
        shown.detach()  # to close another descriptor of it would wait as long as whoever made it likes


def passtos_of(switch: SwitchReader | None) -> bool:
    """Whether the switch is on. One that cannot be read is taken for off: nothing is told then, and nothing is lost."""
    try:
        return switch is not None and switch.passtos
    except OSError:
        return False
