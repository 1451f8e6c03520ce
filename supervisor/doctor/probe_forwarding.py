"""What a router of this kernel does: do the bits survive, does the route depend on them."""

from __future__ import annotations

from collections.abc import Iterator

from qosctl.bpf.dscp import EF
from qosctl.supervisor.doctor import probe_netns
from qosctl.supervisor.doctor.matrix_row import MatrixRow, matched_ecn, matched_text, refused_text, wire_text
from qosctl.supervisor.doctor.netlink import attribute
from qosctl.supervisor.doctor.probe_netns import CHOSEN, ProbeNetns
from qosctl.supervisor.doctor.probe_routing import FRA_DSCP, LOW_DELAY_THROUGHPUT
from qosctl.supervisor.doctor.tos_senders import MEANS, PEERS, Arrivals, classes, on_wire, settled, udp_by_option

_TOPIC = "Forwarding"


def probe(laboratory: ProbeNetns) -> Iterator[MatrixRow]:
    """Yield the rows about forwarding."""
    said = {family: wire_text(classes(_through(laboratory, family))) for family in (4, 6)}
    whole = all(text.startswith("all 8 bits") for text in said.values())
    breaks = "" if whole else "a router of this kernel spoils marks"
    yield MatrixRow("forward-bits", _TOPIC, "the byte of a forwarded packet", said[4], said[6], "", breaks)
    yield _rule(laboratory, "forward-rule-tos", f"ip rule tos {LOW_DELAY_THROUGHPUT:#04x}", LOW_DELAY_THROUGHPUT)
    yield _rule(laboratory, "forward-rule-dscp", "ip rule dscp EF", 0, attribute(FRA_DSCP, bytes([EF.value])))


def _through(laboratory: ProbeNetns, family: int) -> Arrivals:
    with laboratory.before.entered():
        return settled(lambda: udp_by_option(laboratory.sniffer, PEERS[family], MEANS[family]))


def _rule(laboratory: ProbeNetns, key: str, what: str, byte: int, *more: bytes) -> MatrixRow:
    said, ecn = {}, []
    for family in (4, 6):
        reply = probe_netns.add_rule(family, byte, *more)
        if reply.error:
            said[family] = refused_text(reply)
            continue
        matched = on_wire(_through(laboratory, family), CHOSEN)
        probe_netns.delete_rule(family, byte, *more)
        said[family] = matched_text(matched)
        ecn.append(matched_ecn(matched))
    breaks = "the same rule routes other classes on IPv4 than on IPv6" if said[4] != said[6] else ""
    return MatrixRow(key, _TOPIC, f"{what} in a router", said[4], said[6], "; ".join(filter(None, ecn)), breaks)
