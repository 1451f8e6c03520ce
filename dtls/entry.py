"""The one entry that a tunnel has in the flows map: by its UDP flow while that carries records, else by its TCP flow.

The second is there to be seen (`qosctl flows`, metrics): nothing is ever stamped by it, because only UDP is looked up and
its ring stays empty. The old entry goes before the new one comes, and the new one is there before the first record.
"""

from __future__ import annotations

from qosctl.dtls.marker import Endpoint, Marker


class FlowEntry:
    """Keeps the entry in step with the channel that carries the packets."""

    def __init__(self, marker: Marker | None, tunnel: str) -> None:
        self._marker = marker
        self._tunnel = tunnel
        self.marks = False
        """Whether there is a ring to mark in."""
        self.inquiry: memoryview | None = None
        """Where the flow is asked for round trips (qosctl.bpf.inquiry)."""
        self._open = False

    def move(self, local: Endpoint, remote: Endpoint) -> memoryview | None:
        """Enter the flow between two ends in place of the last one; returns its ring, None where nothing marks."""
        if self._marker is None:
            return None
        marks = self._marker.flow_opened(local, remote, self._tunnel)
        self._open = True
        self.marks = marks is not None
        self.inquiry = self._marker.inquiry()
        return marks

    def passtos(self) -> bool:
        """Whether marks leave at present: there is a ring, and the operator's switch is on."""
        return self._marker is not None and self._marker.passtos()

    def close(self) -> None:
        """Remove the entry, if there is one."""
        if self._marker is not None and self._open:
            self._marker.flow_closed()
            self._open = False
