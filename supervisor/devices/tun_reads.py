"""What stands at the tracepoint of reads, machine-wide, for the TUN devices of one network namespace.

There is no device in this attach point: the program looks at the device of each read. A link holds it there, pinned, so
that it outlives us. It cannot be given another program, as a TCX link can: so each queue begins anew with a new program,
and what is read before that has seen enough is left alone.
"""

from __future__ import annotations

from qosctl.bpf.abi import FollowWay
from qosctl.bpf.kernel import netns, syscall
from qosctl.bpf.kernel.descriptors import opened
from qosctl.bpf.load.loader import Loader
from qosctl.bpf.load.programs import TUN_READS_TRACEPOINT
from qosctl.bpf.maps.following import FollowPins, follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import folder


def standing() -> int | None:
    """Return the id of the program at the tracepoint, None where there is none."""
    try:
        fd = syscall.obj_get(str(follow_pins().link))
    except FileNotFoundError:
        return None
    with opened(fd):
        return syscall.link_info(fd).program_id


def bring_up_to_date(loader: Loader) -> bool:
    """Let the tracepoint have today's program where something is followed so; say whether it did not.

    Callers hold the lock. RefusedError where the kernel does not take it.
    """
    pins = follow_pins()
    if FollowWay.READS not in pins.ways:
        take_away()
        return False
    with opened(loader.load_tun_reads(folder(), netns.cookie())) as program:
        if _same_program(pins, program):
            return False
        _begin_queues_anew(pins)  # before reads go by unseen, and once they do not any more
        pins.link.unlink(missing_ok=True)
        pins.program.unlink(missing_ok=True)
        syscall.obj_pin(program, str(pins.program))
        with opened(syscall.raw_tracepoint_open(TUN_READS_TRACEPOINT, program)) as link:
            _begin_queues_anew(pins)
            syscall.obj_pin(link, str(pins.link))
    return True


def take_away() -> None:
    """Take the program away from the tracepoint; nothing there is fine."""
    pins = follow_pins()
    pins.link.unlink(missing_ok=True)
    pins.program.unlink(missing_ok=True)


def _begin_queues_anew(pins: FollowPins) -> None:
    with open_patterns(pins) as patterns:
        patterns.begin_anew()


def _same_program(pins: FollowPins, program: int) -> bool:
    standing_id = standing()
    if standing_id is None:
        return False
    try:
        fd = syscall.obj_get(str(pins.program))
    except FileNotFoundError:
        return False
    with opened(fd):
        return syscall.program_info(fd).id == standing_id and syscall.same_program(fd, program)
