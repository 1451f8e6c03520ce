"""What a change of class costs a sender: this machine's ways to mark, side by side on real sends from Python.

Every send is of another class than the one before, as when a call and bulk share a tunnel. Each way has a namespace of
its own, with a device that drops what it is given, so that only the sending is timed. Rounds alternate; the least counts.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from qosctl.bpf.abi import mark_word
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices.attach import attach, detach_all
from qosctl.supervisor.devices.passtos import set_passtos

from tests.lab import Namespace
from tests.lab.packets import record
from tests.lab.program import own

ROUNDS = 500
SENDS = 200  # few enough to pass undisturbed now and then, on a busy machine too
_ADDRESSES = ("10.94.0.1", "10.94.0.2")
_PORTS = (40000, 4443)
_RECORD = record(1, bytes(1200))
_CLASSES = (EF, Dscp.parse("AF41"))

Send = Callable[[int], object]  # of the send's number, whose parity is the class


def run() -> dict[str, dict[str, float]]:
    """Measure, print, and return {"send_us": ...}: microseconds a send, everything that marking needs included."""
    with ExitStack() as stack:
        ways = {name: stack.enter_context(make()) for name, make in _WAYS.items()}
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for _round in range(ROUNDS):
            for name, send in ways.items():
                rounds[name].append(_timed(send))
    figures = {name: round(min(values), 2) for name, values in rounds.items()}
    for name, microseconds in figures.items():
        print(f"  {name:36}{microseconds:6.2f} us a send{_beside(microseconds, figures['unmarked'])}")
    return {"send_us": figures}


def _beside(microseconds: float, unmarked: float) -> str:
    return f"  {microseconds - unmarked:+6.2f}" if microseconds != unmarked else ""


def _timed(send: Send) -> float:
    started = time.perf_counter_ns()
    for number in range(SENDS):
        send(number)
    return (time.perf_counter_ns() - started) / SENDS / 1000


@contextmanager
def _sender() -> Iterator[tuple[Namespace, socket.socket]]:
    """A namespace with a device that swallows all, and a connected socket in it."""
    with Namespace("sends") as namespace:
        namespace.run(["ip", "link", "add", "out", "type", "ifb"])
        namespace.run(["ip", "link", "set", "out", "up"])
        namespace.run(["ip", "address", "add", f"{_ADDRESSES[0]}/24", "dev", "out"])
        namespace.run(["ip", "neigh", "add", _ADDRESSES[1], "lladdr", "02:00:00:00:00:02", "dev", "out"])
        with namespace.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.bind((_ADDRESSES[0], _PORTS[0]))
            sock.connect((_ADDRESSES[1], _PORTS[1]))
            yield namespace, sock


@contextmanager
def _unmarked() -> Iterator[Send]:
    with _sender() as (_, sock):
        yield lambda _number: sock.send(_RECORD)


@contextmanager
def _marked_here(passtos: bool) -> Iterator[Send]:
    """The program attached: a store into the ring, then the same send."""
    with _sender() as (namespace, sock):
        with namespace.entered():
            attach(["out"])
            set_passtos(passtos)
            ring = Ring(own("tun-bench"))
            with open_state() as state:
                state.flows.add(FlowKey((_ADDRESSES[0], _PORTS[0]), (_ADDRESSES[1], _PORTS[1])), ring)
        marks, words = ring.marks, tuple(mark_word(1, dscp) for dscp in _CLASSES)

        def send(number: int) -> None:
            marks[1] = words[number & 1]
            sock.send(_RECORD)

        yield send
        ring.close()
        with namespace.entered():
            detach_all()


@contextmanager
def _by_option() -> Iterator[Send]:
    with _sender() as (_, sock):
        bytes_ = tuple(dscp.value << 2 for dscp in _CLASSES)

        def send(number: int) -> None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, bytes_[number & 1])
            sock.send(_RECORD)

        yield send


@contextmanager
def _by_control_message() -> Iterator[Send]:
    with _sender() as (_, sock):
        buffers = [_RECORD]
        control = tuple([(socket.IPPROTO_IP, socket.IP_TOS, (dscp.value << 2).to_bytes(4, "little"))] for dscp in _CLASSES)
        yield lambda number: sock.sendmsg(buffers, control[number & 1])


@contextmanager
def _by_nft() -> Iterator[Send]:
    """A rule of the packet filter: one class for the whole tunnel, since it cannot see inside."""
    rule = """table inet bench {
        chain out {
            type filter hook postrouting priority 0
            udp dport 4443 ip dscp set ef
        }
    }"""
    with _sender() as (namespace, sock):
        namespace.run(["nft", "-f", "-"], stdin=rule)
        yield lambda _number: sock.send(_RECORD)


_WAYS: dict[str, Callable[[], AbstractContextManager[Send]]] = {
    "unmarked": _unmarked,
    "program_attached_passtos_off": lambda: _marked_here(passtos=False),
    "program_attached_passtos_on": lambda: _marked_here(passtos=True),
    "nft_rule_one_class_for_all": _by_nft,
    "setsockopt_per_change": _by_option,
    "control_message_per_send": _by_control_message,
}
