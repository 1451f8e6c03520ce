"""ECN on the way back (RFC 6040): what the path marks outside is seen inside, and nothing outside is seen otherwise."""

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.lab import Ocserv
from tests.lab.testbed import Line

PORT = 4000
NOT_ECT, ECT_1, ECT_0, CE = range(4)
WORDS = {NOT_ECT: "not-ect", ECT_1: "ect1", ECT_0: "ect0", CE: "ce"}
AF41 = 34 << 2
# RFC 6040 figure 4: by inner and outer, what comes out; None for dropped.
TABLE = {
    (NOT_ECT, NOT_ECT): NOT_ECT, (NOT_ECT, ECT_0): NOT_ECT, (NOT_ECT, ECT_1): NOT_ECT, (NOT_ECT, CE): None,
    (ECT_0, NOT_ECT): ECT_0, (ECT_0, ECT_0): ECT_0, (ECT_0, ECT_1): ECT_1, (ECT_0, CE): CE,
    (ECT_1, NOT_ECT): ECT_1, (ECT_1, ECT_0): ECT_1, (ECT_1, ECT_1): ECT_1, (ECT_1, CE): CE,
    (CE, NOT_ECT): CE, (CE, ECT_0): CE, (CE, ECT_1): CE, (CE, CE): CE,
}  # fmt: skip
OPTIONS = {4: (socket.IPPROTO_IP, socket.IP_TOS, 13), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 66)}


@pytest.fixture(scope="module", params=[4, 6], ids=["outer4", "outer6"])
def marking(request: pytest.FixtureRequest, line: Line) -> Iterator[tuple[Line, int]]:
    """A router that can mark what comes from the server; the test says how."""
    line.router.run(["nft", "add table inet t; add chain inet t c { type filter hook forward priority 0; }"])
    yield line, request.param
    line.router.run(["nft", "delete", "table", "inet", "t"])


@pytest.mark.parametrize("inner", [4, 6], ids=["inner4", "inner6"])
def test_every_combination_comes_out_as_the_table_says(marking: tuple[Line, int], inner: int) -> None:
    line, outer = marking
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[inner]
    level, option, receive = OPTIONS[inner]
    with line.connected(outer), line.client.entered(), socket.socket(family, socket.SOCK_DGRAM) as near:
        near.setsockopt(level, receive, 1)
        near.settimeout(1)
        with line.server_namespace.entered():
            far = socket.socket(family, socket.SOCK_DGRAM)
        with far:
            far.bind(("", PORT))
            far.settimeout(5)
            near.sendto(b"hello", (Ocserv.inner4 if inner == 4 else Ocserv.inner6, PORT))
            _, client = far.recvfrom(64)
            found: dict[tuple[int, int], int | None] = {}
            for by_path in (NOT_ECT, ECT_0, ECT_1, CE):
                line.router.run(["nft", "flush", "chain", "inet", "t", "c"])
                if by_path != NOT_ECT:
                    header = {4: "ip", 6: "ip6"}[outer]
                    rule = f"udp sport {line.server.port} {header} ecn set {WORDS[by_path]}"
                    line.router.run(["nft", f"add rule inet t c {rule}"])
                for sent in (NOT_ECT, ECT_0, ECT_1, CE):
                    far.sendmsg([bytes([sent, by_path])], [(level, option, struct.pack("=i", AF41 | sent))], 0, client)
                far.sendmsg([b"end"], [(level, option, struct.pack("=i", ECT_0))], 0, client)
                while True:
                    payload, control, _, _ = near.recvmsg(64, 128)  # a wrong checksum would not get here
                    if payload == b"end":
                        break
                    traffic_class = int.from_bytes(control[0][2], "little")
                    assert traffic_class & ~3 == AF41
                    found[payload[0], payload[1]] = traffic_class & 3
        assert {pair: found.get(pair) for pair in TABLE} == TABLE
        (flow,) = line.qosctl.read("flows")["flows"]
        assert flow["statistics"]["dropped_malformed"] == 0
