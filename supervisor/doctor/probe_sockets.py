"""What sockets make of the byte: on the wire, and in SO_PRIORITY."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator

from qosctl.supervisor.doctor.matrix_row import MatrixRow, example, wire_text
from qosctl.supervisor.doctor.probe_netns import ProbeNetns
from qosctl.supervisor.doctor.tos_senders import (
    IP_TOS,
    IPV6_TCLASS,
    MEANS,
    PEERS,
    Arrivals,
    Means,
    Peer,
    classes,
    priorities,
    settled,
    tcp_data,
    tcp_first_packet,
    udp_by_message,
    udp_by_option,
)

_TOPIC = "Sockets"
_UDP_ECN = "UDP puts the ECN bits of a TOS byte on the wire: a program that means a DSCP can claim ECN by mistake"
_TCP_MASKS = ""
_MAPPED = "IPV6_TCLASS is accepted and silently without effect on an IPv4-mapped peer: use IP_TOS as well"
_TCP_MESSAGE = "TCP ignores the control message in silence: only the socket option marks"
_PRIORITY = "IP_TOS also moves the socket's packets to another band of this machine's own queues; IPV6_TCLASS does not"


def probe(laboratory: ProbeNetns) -> Iterator[MatrixRow]:
    """Yield the rows about sockets."""
    sniffer = laboratory.sniffer
    with laboratory.far.entered():
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with listener:
        listener.settimeout(1)

        def data(peer: Peer, means: Means) -> Arrivals:
            return tcp_data(sniffer, listener, peer, means, message=False)

        def message(peer: Peer, means: Means) -> Arrivals:
            return tcp_data(sniffer, listener, peer, means, message=True)

        def udp(peer: Peer, means: Means) -> Arrivals:
            return udp_by_option(sniffer, peer, means)

        def udp_message(peer: Peer, means: Means) -> Arrivals:
            return udp_by_message(sniffer, peer, means)

        def syn(peer: Peer, means: Means) -> Arrivals:
            return tcp_first_packet(sniffer, peer, means)

        yield _row("udp-option", "UDP, socket option", udp, _UDP_ECN)
        yield _row("udp-message", "UDP, control message", udp_message, _UDP_ECN)
        yield _row("tcp-option-syn", "TCP, socket option, first packet", syn, "")
        yield _row("tcp-option-data", "TCP, socket option, data", data, "")
        yield _row("tcp-message", "TCP, control message", message, _TCP_MESSAGE)
        yield _mapped("udp-option-mapped", "UDP, socket option, IPv4-mapped peer (IP_TOS; IPV6_TCLASS)", udp)
        yield _mapped("udp-message-mapped", "UDP, control message, IPv4-mapped peer (IP_TOS; IPV6_TCLASS)", udp_message)
        yield _mapped("tcp-option-syn-mapped", "TCP, socket option, IPv4-mapped peer (IP_TOS; IPV6_TCLASS)", syn)
    yield _priority("priority-option", "SO_PRIORITY after the socket option", Peer.IPV4, Peer.IPV6)
    yield _priority("priority-option-mapped", "the same on an IPv6 socket (IP_TOS; IPV6_TCLASS)", Peer.MAPPED, Peer.MAPPED)


def _row(key: str, what: str, send: Callable[[Peer, Means], Arrivals], breaks: str) -> MatrixRow:
    said = [wire_text(classes(settled(functools.partial(send, PEERS[family], MEANS[family])))) for family in (4, 6)]
    ecn = "reach the wire" if any(text.startswith("all 8 bits") for text in said) else ""
    clean = all(text.startswith("the DSCP arrives") for text in said)
    return MatrixRow(key, _TOPIC, what, said[0], said[1], ecn, "" if clean else breaks)


def _mapped(key: str, what: str, send: Callable[[Peer, Means], Arrivals]) -> MatrixRow:
    said = [wire_text(classes(settled(functools.partial(send, Peer.MAPPED, means)))) for means in (IP_TOS, IPV6_TCLASS)]
    ecn = "reach the wire" if any(text.startswith("all 8 bits") for text in said) else ""
    return MatrixRow(key, _TOPIC, what, said[0], said[1], ecn, _MAPPED if said[1] == "no effect" else "")


def _priority(key: str, what: str, four: Peer, six: Peer) -> MatrixRow:
    found = [priorities(four, IP_TOS), priorities(six, IPV6_TCLASS)]
    said = [_priority_text(values) for values in found]
    ecn = "change it" if any(values[byte] != values[byte & ~0b11] for values in found for byte in values) else ""
    return MatrixRow(key, _TOPIC, what, said[0], said[1], ecn, _PRIORITY if said[0] != said[1] else "")


def _priority_text(values: dict[int, int]) -> str:
    if set(values.values()) == {0}:
        return "stays 0"
    return "follows the byte: " + example(values, ("EF", "AF41", "CS1", "CS6", "LE"))
