"""Waiting until no packet is on its way through the old state any more.

membarrier(2) would wait for an RCU grace period, too, but not on kernels with nohz_full= (EINVAL). A map of maps waits on
all: "any running non-sleepable BPF programs" have ended when an update of one returns (maybe_wait_bpf_programs,
kernel/bpf/syscall.c, since Linux 4.18).
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack

from qosctl.bpf.kernel import syscall
from qosctl.bpf.kernel.syscall import MAP_TYPE_ARRAY, MAP_TYPE_ARRAY_OF_MAPS, MapShape

_U32 = struct.Struct("=I")
_INNER = MapShape(MAP_TYPE_ARRAY, _U32.size, _U32.size, 1)
_OUTER = MapShape(MAP_TYPE_ARRAY_OF_MAPS, _U32.size, _U32.size, 1)


def wait_for_running_programs() -> None:
    """Return once every program that was running has ended, some 10 ms; OSError where the kernel refuses two small maps."""
    with ExitStack() as stack:
        inner = syscall.map_create(_INNER, "grace_inner")
        stack.callback(os.close, inner)
        outer = syscall.map_create(_OUTER, "grace", inner)
        stack.callback(os.close, outer)
        syscall.map_update(outer, _U32.pack(0), _U32.pack(inner))
