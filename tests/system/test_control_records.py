"""What is no inner packet is never marked: handshake, DPD, goodbye, and the TLS channel, beside EF and switched on.

The numbering's probes are another thing: each is in the class whose queue it measures.
"""

from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, Record, Wiretap

OCSERV = "dpd = 2\n"  # seconds of silence until either end asks
EF, AF11 = 46 << 2, 10 << 2
_TCP = 6


def test_control_records_are_never_marked(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")

    def asked() -> list[Record]:
        return [record for record in tap.sent() if record.is_dpd]

    def goodbye() -> list[Record]:
        return [record for record in tap.sent() if record.content_type == ALERT]

    with attached.connected() as connection:
        inside.send(b"before", EF)
        tap.carried(1, b"before")
        tap.wait_for(asked, lambda records: len(records) >= 1, timeout=10)
        inside.send(b"after", EF)
        tap.carried(1, b"after")
        connection.process.terminate()
        connection.process.wait(5)
        tap.wait_for(goodbye, lambda records: len(records) >= 1)

    records = tap.sent()
    control = [record for record in records if record.inner is None and not record.is_probe]
    assert {record.content_type for record in control} == {HANDSHAKE, CHANGE_CIPHER_SPEC, DATA, ALERT}
    assert any(record.is_dpd for record in control)
    assert {(record.frame.dscp, record.frame.ecn) for record in control} == {(0, 0)}
    assert {record.frame.dscp for record in records if record.inner and record.inner.payload in (b"before", b"after")} == {
        46
    }
    tls = [frame for frame in tap.frames() if frame.protocol == _TCP]
    assert {frame.dscp for frame in tls} == {0}


def test_a_probe_has_a_class_that_is_in_the_tunnel(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected():
        for round_ in range(1, 21):
            for _ in range(20):
                inside.send(b"call", EF)
                inside.send(b"bulk", AF11)
            tap.carried(40 * round_)
        probes = [record for record in tap.sent() if record.is_probe]
    assert probes
    assert {record.frame.dscp for record in probes} <= {0, 10, 46}
    assert {record.frame.ecn for record in probes} == {0}
