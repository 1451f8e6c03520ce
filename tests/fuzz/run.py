"""The loop of the fuzzer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from qosctl.bpf.abi import FLOW_SLOTS
from qosctl.bpf.maps.flow_key import FlowKey

from tests.bpf.program.differential import Differential, DisagreementError
from tests.fuzz.generator import Generator
from tests.fuzz.real import frames
from tests.lab.program import FLOW4, FLOW6

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


# Source and destination ports that bring a flow of FLOW4's or FLOW6's addresses to their very slot or up to three before.
_NEAR4 = (
    (2395, 4443),
    (2651, 53),
    (3515, 4444),
    (7243, 4444),
    (14496, 4443),
    (14752, 53),
    (18224, 4443),
    (18480, 53),
    (19344, 4444),
    (23072, 4444),
    (26853, 53),
    (31445, 4444),
)
_NEAR6 = (
    (2395, 4443),
    (2651, 53),
    (3515, 4444),
    (7243, 4444),
    (14496, 4443),
    (14752, 53),
    (18480, 53),
    (19344, 4444),
    (23072, 4444),
    (31445, 4444),
    (36272, 4443),
    (40256, 53),
)


def crowd() -> Iterator[FlowKey]:
    """Yield flows that take the slots where FLOW4 and FLOW6 would lie, so that those are found by searching on."""
    for flow, near in ((FLOW4, _NEAR4), (FLOW6, _NEAR6)):
        for local, remote in near:
            key = FlowKey((flow.local[0], local), (flow.remote[0], remote))
            assert (flow.home - key.home) % FLOW_SLOTS < 4, "the hash is another one: find new ports"
            yield key
