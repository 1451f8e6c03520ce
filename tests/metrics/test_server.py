"""The endpoint among clients that idle, dribble, ask for nonsense, and among people who mistype addresses."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from qosctl.metrics.server import CONNECTIONS_MAX

from tests.lab import Namespace, Qosctl, end
from tests.lab.exporter import PATIENCE, Exporter
from tests.lab.qosctl import COMMAND

IDLE = 200
assert IDLE < CONNECTIONS_MAX

HALF_A_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"

SHORT_LIVED = """
from prometheus_client import CollectorRegistry
from qosctl.metrics.listen import Listen
from qosctl.metrics.server import Endpoint
with Endpoint(CollectorRegistry(), Listen("127.0.0.1", 0), connection_seconds=1) as endpoint:
    print(endpoint.url, flush=True)
    endpoint.run()
"""


@contextlib.contextmanager
def connections(exporter: Exporter, count: int) -> Iterator[Sequence[socket.socket]]:
    with contextlib.ExitStack() as stack, exporter.namespace.entered():
        yield [stack.enter_context(socket.create_connection(exporter.address, timeout=PATIENCE)) for _ in range(count)]


def closed(sock: socket.socket) -> bool:
    if not select.select([sock], [], [], 0)[0]:
        return False
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_idle_connections_are_kept_and_do_not_block_a_scrape(exporter: Exporter) -> None:
    with connections(exporter, IDLE) as idle:
        for _ in range(3):
            exporter.scrape()
        assert not any(closed(sock) for sock in idle)


def test_half_requests_that_go_on_and_on_do_not_block_a_scrape(exporter: Exporter) -> None:
    with connections(exporter, IDLE) as loris:
        for sock in loris:
            sock.send(HALF_A_REQUEST)
        for _ in range(3):
            for sock in loris:
                sock.send(b"X-More: yes\r\n")
            exporter.scrape()
        assert not any(closed(sock) for sock in loris)


def test_more_connections_than_there_is_room_for_push_out_the_oldest_and_not_a_scrape(exporter: Exporter) -> None:
    with connections(exporter, CONNECTIONS_MAX + 100) as many:
        exporter.scrape()
        assert sum(closed(sock) for sock in many) >= 100
        assert not any(closed(sock) for sock in many[-100:])


def test_a_request_that_never_ends_is_cut_off_however_busy_it_looks() -> None:
    process = subprocess.Popen([sys.executable, "-c", SHORT_LIVED], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            sock.send(HALF_A_REQUEST)
            deadline = time.monotonic() + PATIENCE
            while not closed(sock) and time.monotonic() < deadline:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.send(b"X")
                time.sleep(0.1)
            assert time.monotonic() < deadline
    finally:
        end(process)


def test_a_client_that_leaves_in_the_middle_is_no_news(wired: Namespace) -> None:
    with Exporter(wired) as exporter:
        with connections(exporter, 20) as rude:
            for sock in rude:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.send(HALF_A_REQUEST + b"\r\n")
        exporter.scrape()
        assert exporter.stop() == (0, "")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/metrics", "GET", 200),
        ("/", "GET", 200),
        ("/metrics?name[]=qosctl_flows", "GET", 200),
        ("/nothing", "GET", 404),
        ("/metrics/../../etc/passwd", "GET", 404),
        ("/metrics", "POST", 405),
        ("/metrics", "DELETE", 405),
    ],
)
def test_only_the_metrics_are_served(exporter: Exporter, path: str, method: str, status: int) -> None:
    assert exporter.get(path, method)[0] == status


@pytest.mark.audit
@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing"])
def test_a_web_page_cannot_read_them_through_a_name_of_its_own(exporter: Exporter, path: str) -> None:
    """Finding 20: DNS rebinding. The browser sends the page's name as Host, wherever that leads."""
    status, body = exporter.get(path, headers={"Host": "evil.example:24740"})
    assert status == 421
    assert "qosctl_" not in body
    assert exporter.get(path, headers={"Host": "localhost:24740"})[0] != 421


def test_a_configured_name_is_answered(wired: Namespace) -> None:
    with Exporter(wired, more=["--host-name", "node1.example"]) as exporter:
        assert exporter.get(headers={"Host": "node1.example:24740"})[0] == 200
        assert exporter.get(headers={"Host": "node2.example:24740"})[0] == 421


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff\xfe\0\0\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0",
    ],
    ids=["empty", "short", "bytes", "long", "tls"],
)
def test_nonsense_is_refused_and_the_next_scrape_answered(exporter: Exporter, request_bytes: bytes) -> None:
    with connections(exporter, 1) as (sock,):
        sock.send(request_bytes)
        exporter.scrape()


UNREADABLE = [
    b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=x\r\n\r\n",
    b"GET http://[/metrics HTTP/1.0\r\nHost: localhost\r\n\r\n",
]


@pytest.mark.audit
def test_what_a_library_cannot_read_is_a_line_once_a_minute(wired: Namespace) -> None:
    """Finding 20: else whoever reaches the port fills the log with tracebacks."""
    with Exporter(wired) as exporter:
        for each in 5 * UNREADABLE:
            with connections(exporter, 1) as (sock,):
                sock.sendall(each)
                while sock.recv(4096):
                    pass
        exporter.scrape()
        code, said = exporter.stop()
    assert code == 0
    assert said.count("\n") == 1
    assert said.startswith("qosctl: metrics: ")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_also_with_clients_connected(wired: Namespace, sign: signal.Signals) -> None:
    with Exporter(wired) as exporter, connections(exporter, 3):
        exporter.scrape()
        assert exporter.stop(sign) == (0, "")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0", "[::1]:0", "0.0.0.0:0"])
def test_it_says_where_it_serves_on_one_line(wired: Namespace, listen: str) -> None:
    with Exporter(wired, listen) as exporter:
        assert exporter.first_line.startswith("serving http://")
        assert exporter.url.endswith("/metrics")
        exporter.scrape()


def test_an_ordinary_start_is_seen_by_this_machine_alone(wired: Namespace) -> None:
    with Exporter(wired, "24740"):
        rows = wired.run(["ss", "-Htln"]).stdout
    assert [line.split()[3] for line in rows.splitlines() if ":24740" in line] == ["127.0.0.1:24740"]


@pytest.mark.parametrize(
    ("listen", "code", "says"),
    [
        ("nonsense", 1, "metrics: 'nonsense' has no port from 0 to 65535 at its end (try: --listen"),
        ("localhost:1", 1, "metrics: 'localhost:1' does not begin with a numeric address (try: --listen"),
        ("198.51.100.1:24740", 2, "198.51.100.1:24740: not an address of this machine (try: ip address)"),
        ("[2001:db8::9]:24740", 2, "[2001:db8::9]:24740: not an address of this machine (try: ip address)"),
        ("[fe80::1%nosuch]:24740", 2, "[fe80::1%nosuch]:24740: "),
    ],
)
def test_an_address_that_will_not_do_is_one_line(wired: Namespace, listen: str, code: int, says: str) -> None:
    done = Qosctl(wired)("metrics", "--listen", listen, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"qosctl: {says}")
    assert done.stderr.count("\n") == 1


def test_an_address_in_use_is_refused_with_a_way_to_see_by_whom(exporter: Exporter) -> None:
    address, port = exporter.address
    done = Qosctl(exporter.namespace)("metrics", "--listen", f"{address}:{port}", check=False)
    assert done.returncode == 2
    assert done.stderr == f"qosctl: {address}:{port}: something listens there already (try: ss -tlnp sport = :{port})\n"


def test_without_privilege_it_does_not_start(wired: Namespace) -> None:
    done = wired.run(["setpriv", "--bounding-set", "-all", "--", str(COMMAND), "metrics"], check=False)
    assert done.returncode == 4
    assert done.stderr == "qosctl: reading flows and programs needs root with CAP_NET_ADMIN (try: run it as root)\n"
