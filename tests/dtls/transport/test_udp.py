"""UDP on real sockets: loopback for the plain ways, two namespaces with a wire for what needs a device of its own."""

import select
import socket
import struct
from collections.abc import Iterator

import pytest
from qosctl.bpf.dscp import DF
from qosctl.bpf.errors import RefusedError, UsageError
from qosctl.dtls.packets.batch import Batch
from qosctl.dtls.transport.udp import SOL_UDP, UDP_GRO, UDP_SEGMENT, UdpSocket

from tests.lab import Namespace, veth


class Far:
    """The other end: a plain socket on loopback, and ours connected to it."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(5)
        self.udp = UdpSocket.connect((host, self.socket.getsockname()[1]))

    def take(self, count: int) -> list[bytes]:
        return [self.socket.recv(65536) for _ in range(count)]

    def send_segmented(self, datagrams: list[bytes]) -> None:
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
        self.socket.sendmsg([b"".join(datagrams)], control, 0, self.udp.local)

    def close(self) -> None:
        self.socket.close()
        self.udp.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    made = Far(request.param)
    yield made
    made.close()


def numbered(count: int, size: int, last: int | None = None) -> list[bytes]:
    sizes = [size] * (count - 1) + [size if last is None else last]
    return [n.to_bytes(2) + bytes(each - 2) for n, each in enumerate(sizes)]


def batch_of(datagrams: list[bytes]) -> Batch:
    return Batch(memoryview(b"".join(datagrams)), len(datagrams[0]), len(datagrams), DF, 1 << 48)


def collect(udp: UdpSocket, count: int) -> list[bytes]:
    """Receive until `count` datagrams are here."""
    got: list[bytes] = []
    while len(got) < count:
        assert select.select([udp], [], [], 5)[0], f"only {len(got)} of {count} arrived"
        got += map(bytes, udp.receive())
    return got


@pytest.mark.parametrize(
    ("count", "size", "last"), [(1, 1200, None), (2, 100, None), (64, 1000, None), (50, 1237, 60), (3, 21000, 2)]
)
def test_a_batch_arrives_as_its_records(far: Far, count: int, size: int, last: int | None) -> None:
    datagrams = numbered(count, size, last)
    assert far.udp.send(batch_of(datagrams))
    assert far.take(count) == datagrams
    assert far.udp.counts.sent == count
    assert far.udp.counts.gso_refused == 0


def test_a_batch_is_one_packet_to_the_kernel(far: Far) -> None:
    far.socket.setsockopt(SOL_UDP, UDP_GRO, 1)
    datagrams = numbered(10, 500, 20)
    assert far.udp.send(batch_of(datagrams))
    data, control, _, _ = far.socket.recvmsg(65536, 100)
    assert data == b"".join(datagrams)
    assert [struct.unpack("=i", value) for _, kind, value in control if kind == UDP_GRO] == [(500,)]


@pytest.mark.parametrize(("count", "size", "last"), [(2, 100, None), (64, 1000, None), (50, 1237, 60)])
def test_joined_datagrams_are_cut_apart_again(far: Far, count: int, size: int, last: int | None) -> None:
    datagrams = numbered(count, size, last)
    far.send_segmented(datagrams)
    (_,) = select.select([far.udp], [], [], 5)[0]
    assert list(map(bytes, far.udp.receive())) == datagrams  # one read, so GRO it was
    assert far.udp.counts.received == count


def test_reads_are_told_apart_whatever_the_last_one_was(far: Far) -> None:
    for datagrams in (numbered(4, 500), numbered(1, 1200), numbered(6, 300, 20), numbered(1, 1200), numbered(4, 500)):
        far.send_segmented(datagrams)
        assert collect(far.udp, len(datagrams)) == datagrams


def test_single_datagrams_of_any_size_come_in_order(far: Far) -> None:
    datagrams = [bytes([n]) * size for n, size in enumerate((1, 13, 1200, 0, 60000, 5))]
    for datagram in datagrams:
        far.socket.sendto(datagram, far.udp.local)
    assert collect(far.udp, len(datagrams)) == datagrams


def test_nothing_waiting_is_an_empty_list(far: Far) -> None:
    assert far.udp.receive() == []


def test_nobody_listening_is_counted_and_not_raised() -> None:
    far = Far("127.0.0.1")
    far.socket.close()
    for _ in range(3):
        assert far.udp.send(batch_of([b"x" * 100]))
        assert far.udp.send(batch_of([b"x" * 100] * 3))
        assert far.udp.receive() == []
    assert far.udp.counts.path_errors > 0
    far.close()


@pytest.fixture
def narrow() -> Iterator[tuple[Namespace, Namespace]]:
    """near 10.0.0.1 ---- MTU 1280 ---- 10.0.0.2 far"""
    with Namespace("near") as near, Namespace("far") as distant, veth(near, "eth0", distant, "eth0"):
        for space, last in ((near, 1), (distant, 2)):
            space.run(["ip", "addr", "add", f"10.0.0.{last}/24", "dev", "eth0"])
            space.run(["ip", "link", "set", "eth0", "mtu", "1280"])
        yield near, distant


def test_records_too_long_for_one_packet_go_without_segmentation(narrow: tuple[Namespace, Namespace]) -> None:
    near, distant = narrow
    with distant.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.bind(("10.0.0.2", 0))
        sink.settimeout(5)
    with near.entered():
        udp = UdpSocket.connect(sink.getsockname())
    long = numbered(3, 1400)
    assert udp.send(batch_of(long))
    assert [sink.recv(65536) for _ in long] == long
    assert udp.counts.gso_refused == 1
    fitting = numbered(20, 1200)
    assert udp.send(batch_of(fitting))  # the refusal was about that batch, not about the device
    assert [sink.recv(65536) for _ in fitting] == fitting
    assert udp.counts.gso_refused == 1
    assert udp.counts.lost == 0
    udp.close()
    sink.close()


@pytest.mark.parametrize("size", [1000, 1400], ids=["segmented", "one by one"])
def test_a_full_socket_keeps_the_batch_and_nothing_is_lost(narrow: tuple[Namespace, Namespace], size: int) -> None:
    near, distant = narrow
    near.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "20mbit", "burst", "10kb", "limit", "10mb"])
    with distant.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.bind(("10.0.0.2", 0))
        sink.settimeout(5)
    with near.entered():
        small = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    small.connect(sink.getsockname())
    udp = UdpSocket(small)
    datagrams, got = numbered(400, size), []
    batches = [batch_of(datagrams[at : at + 40]) for at in range(0, 400, 40)]
    while batches:
        if udp.send(batches[0]):
            batches.pop(0)
        else:
            assert batches[0].count * size == len(batches[0].data)
            got.append(sink.recv(65536))
    got += [sink.recv(65536) for _ in range(len(datagrams) - len(got))]
    assert got == datagrams
    assert udp.counts.full > 0
    assert udp.counts.sent == 400
    assert (udp.counts.gso_refused > 0) == (size == 1400)
    udp.close()
    sink.close()


def test_a_wire_that_goes_down_loses_and_does_not_raise(narrow: tuple[Namespace, Namespace]) -> None:
    near, _ = narrow
    with near.entered():
        udp = UdpSocket.connect(("10.0.0.2", 9))
    near.run(["ip", "link", "set", "eth0", "down"])
    assert udp.send(batch_of(numbered(3, 100)))
    assert udp.send(batch_of([b"x"]))
    assert udp.counts.lost == 4
    udp.close()


def test_it_knows_both_its_ends() -> None:
    far = Far("127.0.0.1")
    assert far.udp.remote == far.socket.getsockname()
    assert far.udp.local[0] == "127.0.0.1"
    again = UdpSocket.connect(far.udp.remote, ("127.0.0.1", 0))
    assert again.local[1] != far.udp.local[1]
    again.close()
    far.close()
    far.close()
    assert far.udp.fileno() == -1


def test_a_local_port_that_is_taken_is_refused() -> None:
    far = Far("127.0.0.1")
    with pytest.raises(RefusedError, match="in use"):
        UdpSocket.connect(("127.0.0.1", 9), far.udp.remote)
    far.close()


def test_no_route_is_refused() -> None:
    with Namespace("alone") as alone, alone.entered(), pytest.raises(RefusedError, match="unreachable"):
        UdpSocket.connect(("192.0.2.1", 4443))


@pytest.mark.parametrize("address", [("example.org", 443), ("1.2.3", -1), ("::g", 1), ("127.0.0.1", 70000), ("", 1)])
def test_what_is_no_address_is_a_usage_error(address: tuple[str, int]) -> None:
    with pytest.raises(UsageError):
        UdpSocket.connect(address)
