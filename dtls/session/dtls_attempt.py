"""A DTLS handshake under way: one UDP socket and one Handshake, driven by whoever waits.

All flights of an attempt leave from one port: the server ignores a ClientHello from another one for three seconds. An
attempt therefore lasts longer than that, and the next one is heard whatever became of this one.
"""

from __future__ import annotations

from qosctl.bpf.dscp import DF
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.packets.batch import Batch
from qosctl.dtls.record.handshake import Finished, Handshake, PreSharedKey
from qosctl.dtls.transport.addressing import Endpoint
from qosctl.dtls.transport.outer_sockets import PLAIN_SOCKETS, OuterSockets
from qosctl.dtls.transport.udp import UdpSocket

ATTEMPT_S = 4.5
"""ClientHellos at 0, 1 and 3 s: a path that opens meanwhile is found within two seconds."""


class DtlsAttempt:
    """One attempt. It owns the socket until `finished`; then `udp`, `early` and `finished` are the caller's."""

    def __init__(self, remote: Endpoint, psk: PreSharedKey, now: float, sockets: OuterSockets = PLAIN_SOCKETS) -> None:
        """RefusedError where there is no way to `remote` at all, or no socket."""
        self.udp = UdpSocket.connect(remote, sockets=sockets)
        self._handshake = Handshake(psk)
        self._deadline = now + ATTEMPT_S
        self.early: list[bytes] = []
        """Datagrams that came right behind the handshake."""

    @property
    def finished(self) -> Finished | None:
        """What the handshake left, once it is done."""
        return self._handshake.finished

    def step(self, now: float) -> bool:
        """Read, answer and send again what is due; False when this attempt will come to nothing."""
        try:
            received = [bytes(datagram) for datagram in self.udp.receive()]
            while received and self.finished is None:
                self._handshake.feed(received.pop(0))
            for datagram in self._handshake.datagrams_to_send():
                self.udp.send(Batch(memoryview(datagram), len(datagram), 1, DF, number=0))
        except RefusedError:
            return False
        self.early += received
        return self.finished is not None or now < self._deadline

    def next_time(self, now: float) -> float:
        """Return when to call `step` although nothing came."""
        return min(self._deadline, self._handshake.next_timeout(now) or self._deadline)

    def close(self) -> None:
        """Give up; twice is fine."""
        self.udp.close()
