"""What is no inner packet is never marked: handshake, DPD, goodbye, and the TLS channel, beside EF and switched on."""

from tests.system.inside import Inside
from tests.system.line import Line
from tests.system.wiretap import ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, Record, Wiretap

OCSERV = "dpd = 2\n"  # seconds of silence until either end asks
EF_BYTE = 46 << 2
_TCP = 6


def test_control_records_are_never_marked(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")

    def asked() -> list[Record]:
        return [record for record in tap.sent() if record.is_dpd]

    def goodbye() -> list[Record]:
        return [record for record in tap.sent() if record.content_type == ALERT]

    with attached.connected() as connection:
        inside.send(b"before", EF_BYTE)
        tap.carried(1, b"before")
        tap.wait_for(asked, lambda records: len(records) >= 1, timeout=10)
        inside.send(b"after", EF_BYTE)
        tap.carried(1, b"after")
        connection.process.terminate()
        connection.process.wait(5)
        tap.wait_for(goodbye, lambda records: len(records) >= 1)

    records = tap.sent()
    control = [record for record in records if record.inner is None]
    assert {record.content_type for record in control} == {HANDSHAKE, CHANGE_CIPHER_SPEC, DATA, ALERT}
    assert any(record.is_dpd for record in control)
    assert {(record.frame.dscp, record.frame.ecn) for record in control} == {(0, 0)}
    assert {record.frame.dscp for record in records if record.inner and record.inner.payload in (b"before", b"after")} == {
        46
    }
    tls = [frame for frame in tap.frames() if frame.protocol == _TCP]
    assert {frame.dscp for frame in tls} == {0}
