"""QC-12: the server comes back at another address, which only the names of before the tunnel tell."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Connection, Ocserv
from tests.lab.testbed import TUNNEL, Line
from tests.lab.waiting import until
from tests.system.leaks import OUTSIDE, Leaks
from tests.system.test_server_address import put_right

OCSERV = "dpd = 3\ndns = 192.168.77.53\n"
NAME, RESOLVER, MOVED = "vpn.test", "10.91.1.1", "10.91.2.3"


class Names:
    """Answers each question for an IPv4 address with `address`, at RESOLVER, and all others with nothing."""

    def __init__(self, line: Line, address: str) -> None:
        self.address = address
        with line.router.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((RESOLVER, 53))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                question, asker = self._socket.recvfrom(512)
                end = question.index(b"\0", 12) + 5  # RFC 1035 section 4.1.2: the name, its type and its class
                found = question[end - 4 : end - 2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.address) if found else b""
                head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if found else b"\0\0") + bytes(4)
                self._socket.sendto(head + question[12:end] + record, asker)


@pytest.fixture
def names(line: Line, tmp_path: Path) -> Iterator[Names]:
    ours = tmp_path / "resolv.conf"
    ours.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", ours, "/etc/resolv.conf"], check=True)
    try:
        with contextlib.closing(Names(line, line.topology.server4)) as made:
            yield made
    finally:
        subprocess.run(["umount", "/etc/resolv.conf"], check=True)


def move(line: Line, old: str, new: str) -> None:
    device = line.topology.server_if
    for words in (
        ["addr", "del", f"{old}/24", "dev", device],
        ["addr", "add", f"{new}/24", "dev", device],
        ["route", "replace", "default", "via", "10.91.2.1"],
    ):
        line.server_namespace.run(["ip", *words])
    line.router.run(["ip", "-4", "route", "replace", OUTSIDE[4], "via", new])


@pytest.mark.parametrize("routes", ["", "route = 203.0.113.0/255.255.255.0\nroute = 2001:db8::/48\n"], ids=["all", "some"])
def test_a_server_that_moved_is_found_by_the_names_of_before(line: Line, names: Names, routes: str) -> None:
    with put_right(line), Ocserv(line.server_namespace, [line.topology.server4], port=4449, more=OCSERV + routes) as server:
        login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
        words = ["connect", f"https://{NAME}:{server.port}", *login, "-i", TUNNEL]
        with Connection(line.client, words) as connection, Leaks(line) as leaks:
            assert leaks.flows()
            until(lambda: "192.168.77.53" in Path("/etc/resolv.conf").read_text())
            server.stop()
            move(line, line.topology.server4, MOVED)
            names.address = MOVED
            try:
                server.restart()
                connection.wait_for("connected again over DTLS", 60)
                assert "routes and DNS are those of before until there is one again" in connection.errors
                until(lambda: "192.168.77.53" in Path("/etc/resolv.conf").read_text())
                assert f"-> {MOVED}:" in line.qosctl("flows").stdout
                assert leaks.flows()
                assert leaks.seen() == []
            finally:
                move(line, MOVED, line.topology.server4)
