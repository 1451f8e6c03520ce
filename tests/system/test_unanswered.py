"""A server that does not answer is given up in the end, with one line.

By its name the last module here, because the attempts take their time: see `silence`.
"""

import signal

from tests.system.silence import SILENT_PORT, Said, Silences, result
from tests.system.traces import ip

REFUSED, NOT_CONNECTED = 2, 3


def test_silence_over_udp_is_a_server_without_dtls(silences: Silences) -> None:
    assert silences.over_udp == Said(
        "",
        f"qosctl: {silences.address}:{silences.port}: server offers no DTLS, nothing could be marked"
        " (try: a server with udp-port and dtls-psk set, and a path that lets UDP pass)\n",
        REFUSED,
    )


def test_silence_over_tcp_is_nobody_there(silences: Silences) -> None:
    assert silences.over_tcp == Said(
        "",
        f"qosctl: {silences.address}:{SILENT_PORT}: connection timed out (try: ping {silences.address})\n",
        NOT_CONNECTED,
    )


def test_ctrl_c_while_waiting_ends_it_at_once_and_without_a_word(silences: Silences) -> None:
    attempt = silences.attempt(SILENT_PORT)
    silences.wait_until_waiting(attempt)
    attempt.send_signal(signal.SIGINT)
    assert result(attempt) == Said("", "", 0)


def test_neither_left_anything_behind(silences: Silences) -> None:
    assert silences.over_udp.code and silences.over_tcp.code
    assert [device["ifname"] for device in ip(silences.client, "link")] == ["lo", "eth0"]
    assert silences.qosctl("flows", check=False).returncode == NOT_CONNECTED
