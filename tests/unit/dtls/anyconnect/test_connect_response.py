"""What the server's answer to CONNECT may say, and what is made of it."""

import itertools
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.anyconnect.connect_response import connect_request, parse_session
from qosctl.dtls.session.dpd import DeadPeerDetection, Due
from qosctl.dtls.vpn.credentials import CookieLogin
from qosctl.dtls.vpn.http import Response
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import Session, Timers

GATEWAY = Gateway.parse("https://vpn.example:4443")
APP_ID = "d0be565d6dff51e0f8c498a9d719f739db7817d7137dcd642344de8aa5b78092"
GIVEN = {
    "X-CSTP-Version": "1",
    "X-CSTP-Server-Name": "ocserv 1.1.6",
    "X-CSTP-DPD": "20",
    "X-CSTP-Address": "192.168.77.50",
    "X-CSTP-Netmask": "255.255.255.0",
    "X-CSTP-Address-IP6": "fd77::9a7c/64",
    "X-CSTP-Keepalive": "32400",
    "X-DTLS-DPD": "21",
    "X-DTLS-Port": "4444",
    "X-DTLS-Keepalive": "32401",
    "X-DTLS-App-ID": APP_ID,
    "X-DTLS-CipherSuite": "PSK-NEGOTIATE",
    "X-CSTP-Base-MTU": "1500",
    "X-CSTP-MTU": "1434",
}


def parse(fields: dict[str, str | None] | None = None, status: int = 200) -> Session:
    merged = GIVEN | (fields or {})
    pairs = tuple((name.lower(), value) for name, value in merged.items() if value is not None)
    return parse_session(Response(status, "CONNECTED", pairs, b""), GATEWAY)


def test_reads_what_ocserv_gives() -> None:
    session = parse()
    assert session == Session(
        addresses=(ip_interface("192.168.77.50/24"), ip_interface("fd77::9a7c/64")),
        mtu=1434,
        base_mtu=1500,
        tls=Timers(20, 32400),
        dtls=Timers(21, 32401),
        dtls_port=4444,
        app_id=bytes.fromhex(APP_ID),
        server="ocserv 1.1.6",
    )
    assert APP_ID not in repr(session)


def test_the_order_of_the_fields_makes_no_difference() -> None:
    pairs = tuple((name.lower(), value) for name, value in reversed(GIVEN.items()))
    assert parse_session(Response(200, "CONNECTED", pairs, b""), GATEWAY) == parse()


@pytest.mark.parametrize(
    ("server_mtu", "base", "outer", "overhead", "expected"),
    [
        ("1434", "1500", "192.0.2.1", 37, 1434),
        ("1434", "1500", "2001:db8::1", 37, 1414),
        ("1300", "1500", "2001:db8::1", 37, 1300),
        ("1500", "1500", "192.0.2.1", 29, 1442),
        ("65000", "65535", "192.0.2.1", 37, 8934),
    ],
)
def test_the_mtu_is_the_lower_of_what_is_offered_and_what_fits(
    server_mtu: str, base: str, outer: str, overhead: int, expected: int
) -> None:
    session = parse({"X-CSTP-MTU": server_mtu, "X-CSTP-Base-MTU": base})
    assert session.tunnel_mtu(ip_address(outer), overhead) == expected


def test_an_address_is_a_host_without_its_mask() -> None:
    assert parse({"X-CSTP-Netmask": None, "X-CSTP-Address-IP6": None}).addresses == (ip_interface("192.168.77.50/32"),)


def test_ipv6_may_come_as_a_second_address_and_netmask() -> None:
    pairs = [(name.lower(), value) for name, value in GIVEN.items() if name != "X-CSTP-Address-IP6"]
    pairs += [("x-cstp-address", "fd77::5"), ("x-cstp-netmask", "fd77::5/64")]
    session = parse_session(Response(200, "CONNECTED", tuple(pairs), b""), GATEWAY)
    assert session.addresses == (ip_interface("192.168.77.50/24"), ip_interface("fd77::5/64"))


def test_an_mtu_too_small_for_ipv6_leaves_ipv4() -> None:
    assert [address.version for address in parse({"X-CSTP-MTU": "1279"}).addresses] == [4]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"X-DTLS-CipherSuite": None}, "the server offers no DTLS"),
        ({"X-DTLS-App-ID": None}, "the server offers only a DTLS that qosctl does not speak (no PSK-NEGOTIATE)"),
        (
            {"X-DTLS-CipherSuite": "AES256-SHA", "X-DTLS-App-ID": None},
            "the server offers only a DTLS that qosctl does not speak (no PSK-NEGOTIATE)",
        ),
        (
            {"X-DTLS-CipherSuite": None, "X-DTLS12-CipherSuite": "ECDHE-RSA-AES256-GCM-SHA384"},
            "the server offers only a DTLS that qosctl does not speak (no PSK-NEGOTIATE)",
        ),
    ],
)
def test_a_session_without_our_dtls_says_why(fields: dict[str, str | None], why: str) -> None:
    session = parse(fields)
    assert session.no_dtls == why
    assert session.app_id == b""
    assert parse({}).no_dtls == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"X-CSTP-Address": "0.0.0.0"},
        {"X-CSTP-Address": "127.0.0.1"},
        {"X-CSTP-Address": "224.0.0.1"},
        {"X-CSTP-Address": "1.2.3"},
        {"X-CSTP-Address-IP6": "::/0"},
        {"X-CSTP-Netmask": "0.0.0.0"},
        {"X-CSTP-Netmask": "128.0.0.0"},
        {"X-CSTP-Netmask": "255.0.255.0"},
        {"X-CSTP-Address": None, "X-CSTP-Address-IP6": None},
        {"X-CSTP-MTU": "100"},
        {"X-CSTP-MTU": "1e3"},
        {"X-CSTP-MTU": "-1434"},
        {"X-CSTP-DPD": "9" * 30},
        {"X-DTLS-Port": "0"},
        {"X-DTLS-Port": "65536"},
        {"X-DTLS-App-ID": "abcd"},
        {"X-DTLS-App-ID": "zz" * 32},
    ],
)
def test_nonsense_is_refused(fields: dict[str, str | None]) -> None:
    with pytest.raises(RefusedError):
        parse(fields)


def test_a_refusal_gives_the_servers_reason() -> None:
    with pytest.raises(RefusedError, match=r"does not know the cookie any more \(try: log in again\)"):
        parse(status=401)
    with pytest.raises(RefusedError, match=r"503 No more room \(try: "):
        parse({"X-Reason": "No more\troom"}, status=503)


TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=60)
PLAUSIBLE = st.sampled_from(["1", "0", "65535", "255.255.255.255", "::1/128", "10.0.0.1", "fe80::1%eth0/64", APP_ID])


@given(st.lists(st.tuples(st.sampled_from([*GIVEN, "X-Reason"]), TEXT | PLAUSIBLE), max_size=30), st.integers(100, 599))
def test_any_fields_give_a_session_or_a_refusal(fields: list[tuple[str, str]], status: int) -> None:
    pairs = tuple((name.lower(), value) for name, value in [*fields, *GIVEN.items()])
    try:
        session = parse_session(Response(status, "x", pairs, b""), GATEWAY)
    except RefusedError as error:
        assert str(error).isprintable()
    else:
        assert session.addresses
        assert all(address.network.prefixlen >= 8 for address in session.addresses)


def test_the_request_asks_for_psk_and_no_compression_and_holds_the_cookie_once() -> None:
    wire = connect_request(GATEWAY, CookieLogin("c00kie=="), "hôst\r\nX: y", 1500).decode()
    assert wire.startswith("CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: vpn.example:4443\r\n")
    assert wire.count("Cookie: webvpn=c00kie==\r\n") == 1
    assert "X-DTLS-CipherSuite: PSK-NEGOTIATE\r\n" in wire
    assert "X-CSTP-Hostname: h-st--X--y\r\n" in wire
    assert "encoding" not in wire.lower()
    assert "master-secret" not in wire.lower()


def test_a_quiet_channel_is_asked_again_and_again_and_then_given_up() -> None:
    life = DeadPeerDetection(Timers(dpd=20, keepalive=0), 0.0)
    seen = [(now, life.due(float(now))) for now in range(41)]
    assert [now for now, due in seen if due is Due.DPD] == [20, 25, 30, 35]
    assert [now for now, due in seen if due is Due.DEAD] == [40]


def test_a_channel_that_only_hears_still_speaks() -> None:
    """The server counts what it hears: silence of ours ends the session, whatever it sends."""
    life = DeadPeerDetection(Timers(dpd=20, keepalive=0), 0.0)
    asked = []
    for now in range(100):
        life.last_rx = float(now)
        if life.due(float(now)) is Due.DPD:
            asked.append(now)
    assert asked == [20, 40, 60, 80]


def test_a_busy_channel_is_left_in_peace() -> None:
    life = DeadPeerDetection(Timers(dpd=20, keepalive=30), 0.0)
    for now in range(100):
        life.last_rx = life.last_tx = float(now)
        assert life.due(float(now)) is Due.NOTHING
    assert life.next_time() == 99 + 20


def test_keepalives_go_out_when_nothing_else_does() -> None:
    life = DeadPeerDetection(Timers(dpd=0, keepalive=10), 0.0)
    assert [now for now in range(35) if life.due(float(now)) is Due.KEEPALIVE] == [10, 20, 30]


def test_timers_of_zero_never_fire() -> None:
    life = DeadPeerDetection(Timers(dpd=0, keepalive=0), 0.0)
    assert life.next_time() == float("inf")
    assert life.due(1e9) is Due.NOTHING


@given(st.integers(0, 100), st.integers(0, 100), st.lists(st.tuples(st.floats(0.01, 50), st.booleans(), st.booleans())))
def test_nothing_is_due_before_the_next_time(dpd: int, keepalive: int, steps: list[tuple[float, bool, bool]]) -> None:
    now = 0.0
    life = DeadPeerDetection(Timers(dpd, keepalive), now)
    for pause, heard, said in steps:
        quiet_until = life.next_time()
        now += pause
        due = life.due(now)
        assert (due is Due.NOTHING) == (now < quiet_until)
        if due is Due.DEAD:
            return
        if heard:
            life.last_rx = now
        if said:
            life.last_tx = now


def test_a_peer_that_says_nothing_while_we_speak_is_asked_soon_and_given_up() -> None:
    life = DeadPeerDetection(Timers(dpd=90, keepalive=0), 0.0, quiet=2.0, unanswered_limit=4)
    asked: list[float] = []
    now = 0.0
    while (due := life.due(now)) is not Due.DEAD:
        if due is Due.DPD:
            asked.append(now)
        life.last_tx = now
        now += 0.05
    assert len(asked) == 4
    assert asked[0] == pytest.approx(2.0, abs=0.1)
    assert all(0.75 <= later - sooner <= 0.9 for sooner, later in itertools.pairwise(asked))
    assert now < 6


def test_doubt_is_ended_by_any_word() -> None:
    life = DeadPeerDetection(Timers(dpd=90, keepalive=0), 0.0)
    assert life.due(10) is Due.NOTHING
    life.doubt(10)
    assert life.due(10) is Due.DPD
    life.last_rx = 10.1
    assert life.due(20) is Due.NOTHING
    assert life.next_time() > 60


def test_doubt_without_a_word_is_the_end() -> None:
    life = DeadPeerDetection(Timers(dpd=0, keepalive=0), 0.0, unanswered_limit=3)
    life.doubt(10)
    found = [life.due(10 + tenth / 10) for tenth in range(60)]
    assert found.count(Due.DPD) == 3
    assert found[-1] is Due.DEAD
