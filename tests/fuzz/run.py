"""The loop of the fuzzer."""

from __future__ import annotations

import sys
import time

from tests.bpf.differential import Differential, DisagreementError
from tests.fuzz.generator import Generator
from tests.fuzz.real import frames

_STIR_EVERY = 500
_REPORT_SECONDS = 30.0


def fuzz(world: Differential, seed: int, packets: int, *, report: bool = False) -> int:
    """Check `packets` packets; return how many of them no skb could be made of. DisagreementError names the position."""
    real = frames()
    generator = Generator(seed, [*((frame, True) for frame in real), *((frame[14:], False) for frame in real)])
    refused = 0
    next_report = time.monotonic() + _REPORT_SECONDS
    for position in range(packets):
        if position % _STIR_EVERY == 0:
            generator.stir(world)
            if report and time.monotonic() > next_report:
                next_report += _REPORT_SECONDS
                print(f"{position:,} packets agree", file=sys.stderr)
        packet, ethernet, context = generator.packet()
        try:
            refused += world.check(packet, ethernet=ethernet, context=context) is None
        except DisagreementError as difference:
            raise DisagreementError(f"seed {seed}, packet {position}:\n{difference}") from None
    return refused
