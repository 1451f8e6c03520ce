"""ECN on receipt: the outer header's field combined with the inner one (RFC 6040 section 4.2, figure 4).

                            outer
    inner        Not-ECT   ECT(0)    ECT(1)    CE
    Not-ECT      Not-ECT   Not-ECT*  Not-ECT*  drop
    ECT(0)       ECT(0)    ECT(0)    ECT(1)    CE
    ECT(1)       ECT(1)    ECT(1)*   ECT(1)    CE
    CE           CE        CE        CE*       CE

A congestion mark is passed on to an inner sender that understands it. To one that does not, the loss of the packet says the
same. The combinations with a star are passed on as the table says: nothing sends them today, and they do no harm. The outer
DSCP is ignored (RFC 2983: anyone on the path could have set it). Never raises: what is no IP packet is returned as it is.
"""

from __future__ import annotations

from qosctl.bpf.dscp import Ecn
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES

_ECN = tuple(Ecn(value) for value in range(4))
_CHECKSUM = slice(10, 12)


def ecn_of(traffic_class: int) -> Ecn:
    """Return the ECN field of a whole traffic-class byte."""
    return _ECN[traffic_class & 0b11]


def combine(packet: bytes, outer: Ecn) -> bytes | None:
    """Return the inner packet as it is to be handed on, None when it has to be dropped."""
    if outer is Ecn.NOT_ECT or outer is Ecn.ECT_0 or len(packet) < IPV4_HEADER_BYTES:
        return packet
    version = packet[0] >> 4
    if version == 4:
        inner = _ECN[packet[1] & 0b11]
    elif version == 6 and len(packet) >= IPV6_HEADER_BYTES:
        inner = _ECN[packet[1] >> 4 & 0b11]
    else:
        return packet
    wanted = _combined(inner, outer)
    if wanted is None or wanted is inner:
        return None if wanted is None else packet
    changed = bytearray(packet)
    if version == 6:
        changed[1] = packet[1] & 0b1100_1111 | wanted.value << 4
        return bytes(changed)
    changed[1] = packet[1] & 0b1111_1100 | wanted.value
    # RFC 1624 equation 3: HC' = ~(~HC + ~m + m'), where only the low byte of the word m changes.
    total = (~int.from_bytes(packet[_CHECKSUM]) & 0xFFFF) + (~int.from_bytes(packet[:2]) & 0xFFFF)
    total += int.from_bytes(changed[:2])
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[_CHECKSUM] = (~total & 0xFFFF).to_bytes(2)
    return bytes(changed)


def _combined(inner: Ecn, outer: Ecn) -> Ecn | None:
    if outer is Ecn.CE:
        return None if inner is Ecn.NOT_ECT else Ecn.CE
    if outer is Ecn.ECT_1 and inner is Ecn.ECT_0:
        return Ecn.ECT_1
    return inner
