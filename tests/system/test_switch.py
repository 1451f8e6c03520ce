"""The switch and the program come and go under a running tunnel, and marking follows with the next packet."""

import signal

from tests.lab.inside import Inside
from tests.lab.testbed import Line
from tests.lab.wiretap import Wiretap

EF_BYTE = 46 << 2
EF, DF = 46, 0
ROUND = 30


def _outer_dscps(tap: Wiretap, inside: Inside, word: bytes, count: int = ROUND) -> set[int]:
    """Send `count` EF datagrams, wait until they are on the wire, and return the DSCPs they have there."""
    for _ in range(count):
        inside.send(word, EF_BYTE)
    records = tap.carried(count, word)
    assert len(records) == count
    return {record.frame.dscp for record in records}


def test_passtos_is_off_after_the_first_attach(attached: Line) -> None:
    assert attached.qosctl("passtos").stdout == "off\n"


def test_on_and_off_take_effect_on_the_next_packet_of_the_same_tunnel(attached: Line, tap: Wiretap, inside: Inside) -> None:
    with attached.connected():
        seen = {}
        for turn in range(3):
            seen[f"{turn} off"] = _outer_dscps(tap, inside, b"off %d" % turn)
            attached.qosctl("passtos", "on")
            seen[f"{turn} on"] = _outer_dscps(tap, inside, b"on %d" % turn)
            attached.qosctl("passtos", "off")
        assert seen == {"0 off": {DF}, "0 on": {EF}, "1 off": {DF}, "1 on": {EF}, "2 off": {DF}, "2 on": {EF}}
        assert len({record.frame.source_port for record in tap.sent()}) == 1
        marked = [record for record in tap.sent() if record.frame.dscp]
        assert len(marked) >= 3 * ROUND
        assert attached.qosctl.read("status")["devices"][0]["outcomes"]["stamped"] == len(marked)


def test_off_holds_for_what_waits_in_a_client_that_hangs(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection:
        assert _outer_dscps(tap, inside, b"before") == {EF}
        connection.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(ROUND):
                inside.send(b"waiting", EF_BYTE)
            attached.qosctl("passtos", "off")
        finally:
            connection.process.send_signal(signal.SIGCONT)
        assert [record.frame.dscp for record in tap.carried(ROUND, b"waiting")] == [DF] * ROUND


def test_every_packet_of_a_batch_has_its_class(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected() as connection:
        assert inside.works_both_ways(b"up")
        connection.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
        try:
            for _ in range(ROUND):
                for dscp in (46, 10, 0):
                    inside.send(b"batch %02d" % dscp, dscp << 2)
        finally:
            connection.process.send_signal(signal.SIGCONT)
        records = tap.carried(3 * ROUND, b"batch")
    assert len(records) == 3 * ROUND
    found = [(record.inner.payload, record.frame.dscp) for record in records if record.inner is not None]
    expected = [(b"batch 46", 46), (b"batch 10", 10), (b"batch 00", 0)]
    assert sorted(found) == sorted(expected * ROUND)


def test_marking_starts_when_attach_and_switch_come_after_connect(line: Line, tap: Wiretap, inside: Inside) -> None:
    with line.connected() as connection:
        assert _outer_dscps(tap, inside, b"nothing attached") == {DF}
        with line.attached():
            assert _outer_dscps(tap, inside, b"attached") == {DF}
            line.qosctl("passtos", "on")
            assert _outer_dscps(tap, inside, b"switched on") == {EF}
        assert _outer_dscps(tap, inside, b"detached") == {DF}
        with line.attached():
            assert _outer_dscps(tap, inside, b"attached again") == {DF}
            line.qosctl("passtos", "on")
            assert _outer_dscps(tap, inside, b"switched on again") == {EF}
        assert connection.process.poll() is None
        assert len({record.frame.source_port for record in tap.sent()}) == 1


def test_a_tunnel_works_with_no_program_attached(line: Line, tap: Wiretap, inside: Inside) -> None:
    with line.connected():
        assert inside.works_both_ways(b"over IPv4")
        inside.send(b"over IPv6", EF_BYTE, version=6)
        assert inside.arrived(1) == [b"over IPv6"]
        assert {(record.frame.dscp, record.frame.ecn) for record in tap.sent()} == {(0, 0)}


def test_a_second_attach_changes_nothing(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with attached.connected():
        program = attached.qosctl.read("status")["devices"][0]["program"]
        again = attached.qosctl("attach", attached.device)
        assert again.stdout == "eth0: attached already, up to date (tcx)\n"
        assert attached.qosctl.read("status")["devices"][0]["program"] == program
        assert _outer_dscps(tap, inside, b"still on") == {EF}


def test_two_tunnels_have_marks_of_their_own(attached: Line, tap: Wiretap, inside: Inside) -> None:
    attached.qosctl("passtos", "on")
    with (
        attached.connected(),
        attached.qosctl.connect(attached.server, attached.topology.server4, "-i", "vpn1"),
    ):
        assert len(attached.qosctl.read("flows")["flows"]) == 2
        assert _outer_dscps(tap, inside, b"first of two") == {EF}
    assert attached.qosctl("flows", check=False).returncode == 3
