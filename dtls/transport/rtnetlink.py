"""A conversation with rtnetlink through pyroute2, begun only where there is room for it.

pyroute2 makes an event loop for each conversation. Where that finds no descriptor half-way, what is already made complains
of its own end, in a dozen lines of Python's on stderr that no caller can catch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from qosctl.bpf.errors import ShortageError
from qosctl.dtls.transport import pyroute2_by_need

_DESCRIPTORS = 6
"""What a conversation takes, and two to spare."""


@contextmanager
def conversation() -> Iterator[pyroute2_by_need.IPRoute]:
    """Yield a pyroute2.IPRoute. ShortageError before anything is begun where there is no room for it."""
    try:
        with ExitStack() as room:
            for _ in range(_DESCRIPTORS):
                room.callback(os.close, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise ShortageError.of("rtnetlink", error) from None
    with pyroute2_by_need.IPRoute() as ip:
        yield ip
