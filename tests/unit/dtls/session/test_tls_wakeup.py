"""The packet that makes a server change over, and when it is sent."""

from __future__ import annotations

import subprocess
from ipaddress import ip_interface
from pathlib import Path

import pytest
from qosctl.dtls.session.tls_wakeup import LAST_WAIT_S, TlsWakeup
from qosctl.dtls.vpn.session import Interface


def due(wakeup: TlsWakeup) -> bytes:
    wakeup.begin(0.0)
    packet = wakeup.due(0.0)
    assert packet is not None
    return packet


def test_it_is_sent_at_once_and_then_less_and_less_until_it_ends() -> None:
    wakeup = TlsWakeup([ip_interface("192.168.77.5/24")])
    assert wakeup.due(0.0) is None
    wakeup.begin(10.0)
    times = []
    while (now := wakeup.next_time()) < float("inf"):
        assert wakeup.due(now - 0.01) is None
        assert wakeup.due(now) is not None
        times.append(now - 10.0)
    assert times == [0, 1, 3, 7, 15, 31, 63]
    assert times[-1] == 2 * LAST_WAIT_S - 1
    wakeup.begin(100.0)
    wakeup.stop()
    assert wakeup.due(1e9) is None


@pytest.mark.parametrize("own", ["192.168.77.5/24", "fd77::5/64"])
def test_it_goes_one_hop_and_is_whole(own: str, tmp_path: Path) -> None:
    """Seen by tcpdump, which checks lengths and checksums."""
    interface: Interface = ip_interface(own)
    packet = due(TlsWakeup([interface]))
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000065000000")  # pcap, LINKTYPE_RAW
    capture = tmp_path / "one.pcap"
    capture.write_bytes(header + bytes(8) + 2 * len(packet).to_bytes(4, "little") + packet)
    said = subprocess.run(["tcpdump", "-vvnr", capture], check=True, capture_output=True, text=True).stdout
    assert f"{interface.ip}.9 > " in said
    assert "ttl 1," in said or "hlim 1," in said
    assert "UDP, length 0" in said
    assert "bad" not in said
    assert "udp sum ok" in said or "no cksum" in said


def test_it_comes_from_ipv4_where_there_is_both() -> None:
    """That is the one that stays when the path has no room for IPv6."""
    addresses: list[Interface] = [ip_interface("fd77::5/64"), ip_interface("192.168.77.5/24")]
    assert due(TlsWakeup(addresses)) == due(TlsWakeup(addresses[1:]))


def test_without_an_address_it_stays_quiet() -> None:
    wakeup = TlsWakeup([])
    wakeup.begin(0.0)
    assert wakeup.due(0.0) is None
    assert wakeup.next_time() == float("inf")
