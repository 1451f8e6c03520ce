"""The interface to the rings: a place to store marks for as long as a flow lives.

A flow is registered by its socket, never by addresses, so the process that registers it need not trust the client.
Registering may take long, because another process may hold the lock of the maps. Packets do not wait for it, and leave
unmarked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qosctl.bpf.dscp import Dscp


class RttRequest(Protocol):
    """One request for round trips: `dscps` in ascending order, at least one; `until_ns` of CLOCK_MONOTONIC."""

    @property
    def id(self) -> int:
        """Return what tells it from the one before; never 0."""
        ...

    @property
    def dscps(self) -> Sequence[Dscp]:
        """Return what to probe with."""
        ...

    @property
    def until_ns(self) -> int:
        """Return when to end."""
        ...


class RttRequests(Protocol):
    """Where other processes ask this flow for round trips, and read them. Whatever they write there, no call raises."""

    @property
    def probes_max(self) -> int:
        """Return how many probes one request can lead to."""
        ...

    def current_id(self) -> int:
        """Return the id of what is asked, 0 where nothing is: cheap enough to look at often."""
        ...

    def current(self) -> RttRequest | None:
        """Return what is asked, None where nothing is."""
        ...

    def begin(self, request: int) -> None:
        """Say that the request with this id is being answered."""
        ...

    def probe_sent(self, number: int, dscp: Dscp) -> None:
        """Note the probe `number`, counted from 0, below `probes_max`."""
        ...

    def probe_echoed(self, number: int, dscp: Dscp, seconds: float) -> None:
        """Note that it is back after so long."""
        ...


@dataclass(frozen=True)
class FlowMemory:
    """What is shared with the kernel, and with others who look.

    `marks` is a view of qosctl.bpf.abi.RING_WORDS words ("Q") to store marks in.
    """

    marks: memoryview
    rtt_requests: RttRequests


class Marker(Protocol):
    """Makes one flow known to the kernel, and forgets it again. No call waits for anybody."""

    def flow_opened(self, outer: int, tunnel: str) -> None:
        """Register the flow of tunnel device `tunnel`, in place of the one before, which goes first.

        `outer` is the descriptor of its connected UDP or TCP socket. It is not needed any more after the call.
        """
        ...

    def memory(self) -> FlowMemory | None:
        """Return the memory of the registered flow, None while there is none: the tunnel then works unmarked."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether `memory` may still come for the flow that was opened last."""
        ...

    def flow_closed(self) -> None:
        """Remove what `flow_opened` registered; nothing to remove is fine. Its memory is not used after it."""
        ...

    def passtos(self) -> bool:
        """Whether marks leave at present: the operator's switch, for the flow that is registered; False without one.

        What nobody may learn while it is off depends on this: ask at each chore tick, it is a system call and no more.
        """
        ...
