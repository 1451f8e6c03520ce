"""Which makings a session is put together from: the plain ones, or others that do more (`packet_log`).

Chosen once for the whole call, so that what is not wanted costs nothing where packets pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qosctl.dtls.packets.batch import Batcher
from qosctl.dtls.record.protection import RecordOpener
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.vpn.frames import StreamDecoder
from qosctl.dtls.vpn.protocol import VpnProtocol


def plain_decoder(protocol: VpnProtocol) -> StreamDecoder:
    """Return what reads the frames of a TLS channel, and no more."""
    return protocol.stream_decoder()


@dataclass(frozen=True)
class Factories:
    """What makes each part that packets go through; called with the arguments of the class it makes."""

    uplink: Callable[..., Batcher] = Batcher
    opener: Callable[..., RecordOpener] = RecordOpener
    control: Callable[..., TlsControl] = TlsControl
    decoder: Callable[[VpnProtocol], StreamDecoder] = plain_decoder


PLAIN = Factories()
