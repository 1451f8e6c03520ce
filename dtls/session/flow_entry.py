"""The one entry that a tunnel has in the flows map: by its UDP flow while that carries records, else by its TCP flow.

The second is there to be seen (`qosctl flows`, metrics): nothing is ever stamped by it, because only UDP is looked up and
its ring stays empty. The old entry goes before the new one comes.
"""

from __future__ import annotations

import math

from qosctl.dtls.session.marker import FlowMemory, Marker

LOOK_S = 0.05
"""How often to look for memory that is late, when nothing else happens."""


class FlowEntry:
    """Keeps the entry in step with the channel that carries the packets."""

    def __init__(self, marker: Marker | None, tunnel: str) -> None:
        self._marker = marker
        self._tunnel = tunnel
        self._open = False

    def move(self, outer: int) -> None:
        """Have the flow of this connected socket entered in place of the last one; its memory comes when it comes."""
        if self._marker is not None:
            self._marker.flow_opened(outer, self._tunnel)
            self._open = True

    def tend(self, now: float) -> float:
        """Look whether the memory has come; return when to look again."""
        return now + LOOK_S if self.waiting and self.memory is None else math.inf

    @property
    def memory(self) -> FlowMemory | None:
        """Where to store the marks of the flow that was entered last; None as long as nothing can be marked."""
        return None if self._marker is None else self._marker.memory()

    @property
    def waiting(self) -> bool:
        """Whether that memory may still come."""
        return self._marker is not None and self._marker.waiting

    def passtos(self) -> bool:
        """Whether marks leave at present: there is a ring, and the operator's switch is on."""
        return self._marker is not None and self._marker.passtos()

    def close(self) -> None:
        """Remove the entry, if there is one."""
        if self._marker is not None and self._open:
            self._marker.flow_closed()
            self._open = False
