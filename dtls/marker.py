"""What the client needs from whoever owns the rings: a place to store marks for as long as a flow lives."""

from __future__ import annotations

from typing import Protocol

Endpoint = tuple[str, int]
"""An IP address in text form and a UDP port."""


class Marker(Protocol):
    """Makes one flow known to the kernel, and forgets it again."""

    def flow_opened(self, local: Endpoint, remote: Endpoint, tunnel: str) -> memoryview | None:
        """Register the flow of tunnel device `tunnel`, in place of the one before, which goes first.

        Returns a memoryview("Q") of qosctl.bpf.layout.RING_WORDS words to store marks in, or None where marking is
        not possible; the tunnel then works unmarked.
        """
        ...

    def inquiry(self) -> memoryview | None:
        """Return the words in which that flow is asked for round trips (qosctl.bpf.inquiry), None without a ring."""
        ...

    def flow_closed(self) -> None:
        """Remove what `flow_opened` registered; nothing to remove is fine. The memoryview is not used after it."""
        ...

    def passtos(self) -> bool:
        """Whether marks leave at present: the operator's switch, for the flow that is registered; False without one.

        What nobody may learn while it is off depends on this: ask at each chore tick, it is a system call and no more.
        """
        ...
