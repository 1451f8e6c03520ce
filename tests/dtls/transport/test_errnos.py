"""What the kernel may answer to one packet is that packet's loss (finding 14): real errors, injected by seccomp.

A filter cannot be taken off again, so each case is a process of its own.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Namespace, Ocserv, Topology

ROOT = Path(__file__).parent.parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
ERRORS = ["ENOMEM", "ENOBUFS", "EPERM", "EIO", "EINVAL", "EFAULT", "ENOTCONN", "EPIPE"]

DATAGRAMS = """
import errno, socket, sys
from qosctl.bpf.dscp import DF
from qosctl.dtls.transport.udp import UdpSocket
from qosctl.dtls.packets.batch import Batch
from tests.lab.refusing import refuse

far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
far.bind(("127.0.0.1", 0))
udp = UdpSocket.connect(far.getsockname())
far.sendto(b"waits", udp.local)
for call in ("sendto", "sendmsg", "recvmsg"):
    refuse(call, getattr(errno, sys.argv[1]), udp.fileno())
assert udp.send(Batch(memoryview(b"one"), 3, 1, DF, 0))
assert udp.send(Batch(memoryview(b"twotwo"), 3, 2, DF, 0))
assert udp.receive() == []
print(udp.counts.lost, udp.counts.sent)
"""


def run(program: str, *words: str, namespace: Namespace | None = None) -> str:
    argv = [sys.executable, "-c", program, *words]
    if namespace is None:
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    else:
        process = namespace.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        done = subprocess.CompletedProcess(argv, process.wait(60), *process.communicate())
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.audit
@pytest.mark.parametrize("error", ERRORS)
def test_a_datagram_that_the_kernel_refuses_is_lost_and_counted(error: str) -> None:
    assert run(DATAGRAMS, error) == "3 0\n"


def test_a_socket_that_is_not_ours_any_more_is_an_error() -> None:
    with pytest.raises(AssertionError, match="Bad file descriptor"):
        run(DATAGRAMS, "EBADF")


TUNNEL = """
import errno, subprocess, sys
from qosctl.dtls.client import connect
from qosctl.dtls.vpn.credentials import PasswordLogin
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.certificate_check import Pin
from tests.lab.refusing import refuse

url, pin, inner, error = sys.argv[1:]
pinging = []
stop = Stop()

def connected(info):
    pinging.append(subprocess.Popen(["ping", "-c", "3", "-i", "0.2", "-w", "30", inner], stdout=subprocess.DEVNULL))
    for call in ("sendmsg", "recvmsg"):
        refuse(call, getattr(errno, error))

def told(now):
    if pinging and pinging[0].poll() is not None:
        stop.request()

login = PasswordLogin("alice", lambda: "correct horse battery staple")
final = connect(ConnectOptions(url, login, Pin.parse(pin)), stop, on_connected=connected, on_statistics=told)
print(pinging[0].returncode, final.counts.packets_over_tls > 0)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.mark.audit
@pytest.mark.parametrize("error", ["ENOMEM", "EFAULT"])
def test_a_tunnel_outlives_a_kernel_that_has_no_memory_for_its_datagrams(lab: Topology, error: str) -> None:
    """Nothing comes over UDP any more: TLS takes over, and the inner connections live."""
    with Ocserv(lab.server, [lab.server4]) as server:
        url = f"https://{lab.server4}:{server.port}"
        assert run(TUNNEL, url, server.pin, server.inner4, error, namespace=lab.client) == "0 True\n"


def test_every_name_is_an_error() -> None:
    assert all(hasattr(errno, name) for name in ERRORS)
