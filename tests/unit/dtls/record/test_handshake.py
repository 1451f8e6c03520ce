"""The DTLS handshake against OpenSSL's own server, and the reach below pyOpenSSL that it needs. No network."""

import contextlib
import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from packaging.requirements import Requirement
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.anyconnect.protocol import app_id_key
from qosctl.dtls.numbering.plain import FIRST_NUMBER
from qosctl.dtls.record import openssl
from qosctl.dtls.record.handshake import HANDSHAKE_MTU, Finished, Handshake, HandshakeError
from qosctl.dtls.record.protection import ALERT, APPLICATION_DATA, RecordOpener, RecordSealer

from tests.lab.psk_server import PskServer
from tests.minima import requirements

PSK = bytes(range(32))
APP_ID = bytes(range(32, 64))
KEY = app_id_key(PSK, APP_ID)


def shake_hands(client: Handshake, server: PskServer) -> Finished:
    """Carry datagrams until nobody has anything to say."""
    while outgoing := client.datagrams_to_send():
        for datagram in outgoing:
            for answer in server.feed(datagram):
                client.feed(answer)
    assert client.finished is not None
    return client.finished


def test_the_binding_still_has_all_we_reach_for() -> None:
    assert openssl.missing() == (), "this release of pyOpenSSL or cryptography took something away"


def test_a_missing_call_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "NEEDED", (*openssl.NEEDED, "SSL_CTX_gone"))
    with pytest.raises(RefusedError, match="lack SSL_CTX_gone"):
        Handshake(KEY)


@pytest.mark.audit
def test_libraries_that_cannot_seal_are_refused_by_name_and_the_hint_is_what_pyproject_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finding 16: cryptography 46 has no `encrypt_into`, which came out at the first record only."""
    monkeypatch.setattr(openssl, "SEALING", "encrypt_nowhere")
    with pytest.raises(RefusedError) as caught:
        openssl.require()
    assert "lack AESGCM.encrypt_nowhere, ChaCha20Poly1305.encrypt_nowhere" in caught.value.message
    words = shlex.split(caught.value.hint)
    assert words[:2] == ["pip", "install"]
    assert {Requirement(word) for word in words[2:]} == {
        need for need in requirements() if need.name in {"cryptography", "pyOpenSSL"}
    }


def test_client_hello_is_one_datagram_with_the_app_id_in_its_extension() -> None:
    (hello,) = Handshake(KEY).datagrams_to_send()
    assert 93 <= len(hello) <= HANDSHAKE_MTU
    assert hello[0] == 22
    assert (48018).to_bytes(2) + (33).to_bytes(2) + bytes([32]) + APP_ID in hello


def test_both_sides_finish_with_the_key_and_the_app_id() -> None:
    client, server = Handshake(KEY), PskServer(PSK)
    finished = shake_hands(client, server)
    assert server.done
    assert server.identity == b"psk"
    assert server.app_id == bytes([32]) + APP_ID
    assert finished.suite == server.suite() == "PSK-AES256-GCM-SHA384"
    assert finished.first_number >= FIRST_NUMBER


@pytest.mark.parametrize("suite", ["PSK-AES256-GCM-SHA384", "PSK-CHACHA20-POLY1305", "PSK-AES128-GCM-SHA256"])
def test_openssl_opens_our_records_and_we_open_its(suite: str) -> None:
    server = PskServer(PSK, suite.encode())
    finished = shake_hands(Handshake(KEY), server)
    assert finished.suite == suite
    keys = finished.keys
    sealer = RecordSealer(keys.cipher, keys.client_key, keys.client_iv)
    opener = RecordOpener(keys.cipher, keys.server_key, keys.server_iv)
    buffer = bytearray(2000)
    for number in (finished.first_number, finished.first_number + 40, finished.first_number + 3):
        size = sealer.seal_into(memoryview(buffer), number, APPLICATION_DATA, b"up")
        assert server.open(bytes(buffer[:size])) == b"up"
        (record,) = opener.open(server.seal(b"down"))
        assert (record.content_type, record.plaintext) == (APPLICATION_DATA, b"down")


def test_a_finished_handshake_writes_nothing_more() -> None:
    client, server = Handshake(KEY), PskServer(PSK)
    shake_hands(client, server)
    client.feed(server.seal(b"data"))
    assert client.datagrams_to_send() == []
    assert client.next_timeout(0.0) is None


def test_lost_flights_are_sent_again() -> None:
    """Each of the client's two flights is lost once, and the server's last one: OpenSSL's clock brings them back."""
    client, server = Handshake(KEY), PskServer(PSK)
    flights = 0
    lost_answer = False
    while client.finished is None:
        for datagram in client.datagrams_to_send():
            flights += 1
            if flights in (1, 3):
                continue
            for answer in server.feed(datagram):
                if server.done and not lost_answer:
                    lost_answer = True
                    continue
                client.feed(answer)
        if client.finished is None:
            now = time.monotonic()
            due = client.next_timeout(now)
            assert due is not None
            time.sleep(max(0.0, due - now))
    assert server.done
    assert client.finished.first_number >= FIRST_NUMBER
    keys = client.finished.keys
    buffer = bytearray(100)
    size = RecordSealer(keys.cipher, keys.client_key, keys.client_iv).seal_into(
        memoryview(buffer), client.finished.first_number, APPLICATION_DATA, b"up"
    )
    assert server.open(bytes(buffer[:size])) == b"up"


def test_with_another_key_nobody_finishes() -> None:
    """DTLS passes over a Finished it cannot open: the client is left waiting, and its caller's patience decides."""
    client, server = Handshake(KEY), PskServer(bytes(32))
    while outgoing := client.datagrams_to_send():
        for datagram in outgoing:
            for answer in server.feed(datagram):
                client.feed(answer)
    assert not server.done
    assert client.finished is None


def test_a_server_of_other_suites_never_finishes() -> None:
    """Its refusal comes in clear, as anybody could have written it: the attempt ends when its time is up, not before."""
    client, server = Handshake(KEY), PskServer(PSK, b"PSK-AES128-CBC-SHA256")
    (hello,) = client.datagrams_to_send()
    answers = server.feed(hello)
    assert [answer[0] for answer in answers] == [ALERT]
    for answer in answers:
        client.feed(answer)
    assert client.finished is None
    assert client.next_timeout(0.0) is not None  # it goes on asking


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_datagrams_leave_it_waiting_or_end_it_with_its_own_error(datagrams: list[bytes]) -> None:
    client = Handshake(KEY)
    client.datagrams_to_send()
    try:
        for datagram in datagrams:
            client.feed(datagram)
    except HandshakeError:
        assert client.datagrams_to_send() is not None
    assert client.finished is None


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(st.data())
def test_an_altered_answer_never_finishes_a_handshake(data: st.DataObject) -> None:
    """One bit of the server's last flight is flipped: keys must not come of it."""
    client, server = Handshake(KEY), PskServer(PSK)
    (hello,) = client.datagrams_to_send()
    for answer in server.feed(hello):
        client.feed(answer)
    (flight,) = client.datagrams_to_send()
    (last,) = server.feed(flight)
    finished_at = 14  # behind the ChangeCipherSpec, which says nothing that could be altered unnoticed
    at = data.draw(st.integers(finished_at * 8, len(last) * 8 - 1))
    altered = bytearray(last)
    altered[at // 8] ^= 1 << at % 8
    with contextlib.suppress(HandshakeError):
        client.feed(bytes(altered))
    assert client.finished is None


def test_reasons_are_openssls_own_words() -> None:
    assert openssl.reason(SSL.Error([("SSL routines", "", "wrong version number")])) == "wrong version number"
    assert openssl.reason(SSL.Error([])) == "unknown reason"
    assert openssl.reason(SSL.SysCallError(-1, "Unexpected EOF")) == "Unexpected EOF"
    assert openssl.reason(SSL.ZeroReturnError()) == "ZeroReturnError"
