"""A server that does not answer over TCP is given up in the end, with one line; over TCP alone it is good enough.

By its name the last module here, because the attempts take their time: see `silence`.
"""

import signal

from tests.system.silence import SILENT_PORT, Said, Silences, result
from tests.system.traces import ip

NOT_CONNECTED = 3


def test_silence_over_udp_is_a_tunnel_over_tls_and_a_warning(silences: Silences) -> None:
    said = silences.over_udp
    first, second = said.stdout.splitlines()
    assert first.startswith("connected tun0: 192.168.77.")
    assert second.endswith(f" -> {silences.address}:{silences.port}, TLSv1.3 TLS_AES_256_GCM_SHA384")
    assert said.stderr == "qosctl: no answer over UDP: packets go over TLS, unmarked, until DTLS works\n"
    assert said.code == 0


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
    assert (silences.over_udp.code, silences.over_tcp.code) == (0, NOT_CONNECTED)
    assert [device["ifname"] for device in ip(silences.client, "link")] == ["lo", "eth0"]
    assert silences.qosctl("flows", check=False).returncode == NOT_CONNECTED
