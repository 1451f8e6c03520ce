"""What the client needs from whoever owns the rings: a place to store marks for as long as a flow lives.

A flow is registered by showing the socket itself, never by naming addresses: who registers for a client need not believe
it. Registering may take long, because somebody else may be at work in the maps; packets do not wait for it, unmarked as
they then are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Endpoint = tuple[str, int]
"""An IP address in text form and a port."""


@dataclass(frozen=True)
class FlowMemory:
    """What is shared with the kernel, and with others who look.

    `marks` is a view of qosctl.bpf.abi.RING_WORDS words ("Q") to store marks in, `inquiry` of those in which the flow
    is asked for round trips (qosctl.bpf.flow_page.rtt_request).
    """

    marks: memoryview
    inquiry: memoryview


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
