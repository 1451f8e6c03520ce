"""Run `qosctl` with the clocks of a machine that can be suspended: `suspended_program.py FILE WORD...`.

FILE holds eight bytes, a double: for how many seconds the machine has slept since this began. The kernel's monotonic clock
stands still during sleep, the boot-time clock does not. That is what the client sees here; all else is as it is.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

_SLEPT = struct.Struct("=d")


def main() -> int:
    """Change the clocks, then be `qosctl`."""
    with Path(sys.argv[1]).open("rb") as file:
        page = mmap.mmap(file.fileno(), _SLEPT.size, access=mmap.ACCESS_READ)
    monotonic, clock_gettime = time.monotonic, time.clock_gettime

    def slept() -> float:
        return float(_SLEPT.unpack_from(page)[0])

    def at(clock: int) -> float:
        return clock_gettime(clock) - (slept() if clock == time.CLOCK_MONOTONIC else 0.0)

    time.monotonic = lambda: monotonic() - slept()
    time.clock_gettime = at
    from qosctl.supervisor.cli.main import main as qosctl  # noqa: PLC0415 - with the clocks as they are now

    return qosctl(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
