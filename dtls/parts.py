"""Which makings a session is put together from: the plain ones, or others that do more (`trace`).

Chosen once for the whole call, so that what is not wanted costs nothing where packets pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qosctl.dtls.control import Control
from qosctl.dtls.frames import CstpDecoder
from qosctl.dtls.record import RecordOpener
from qosctl.dtls.uplink import Uplink


@dataclass(frozen=True)
class Parts:
    """What makes each part that packets go through; called with the arguments of the class it makes."""

    uplink: Callable[..., Uplink] = Uplink
    opener: Callable[..., RecordOpener] = RecordOpener
    control: Callable[..., Control] = Control
    decoder: Callable[[], CstpDecoder] = CstpDecoder


PLAIN = Parts()
