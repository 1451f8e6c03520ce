"""Nonsense, missing privilege, a wire that is pulled: one line, never a traceback."""

from __future__ import annotations

import select
import socket
import subprocess
import time

import pytest
from qosctl.supervisor.path.probe import Prober
from qosctl.supervisor.path.waiting import LATE_MAX

from tests.lab import Namespace, Qosctl
from tests.lab.qosctl import COMMAND
from tests.supervisor.path.chain import HOPS, Chain


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere.invalid"], 2, "qosctl: nowhere.invalid: "),
        (["192.0.2.1", "--port", "0"], 1, "qosctl: path: 0 is not a port"),
        (["192.0.2.1", "--dscp", "64"], 1, "is not a DSCP"),
        (["2001:db8::1", "-4"], 2, "qosctl: 2001:db8::1: "),
        (["a" * 300], 2, "qosctl: aaa"),
        (["224.0.0.1"], 2, "qosctl: 224.0.0.1: a group has no one path"),
        (["ff02::1%right"], 2, "qosctl: ff02::1%right: a group has no one path"),
        (["10.92.0.255"], 2, "qosctl: cannot send to 10.92.0.255: Permission denied"),
    ],
)
def test_nonsense_gets_one_line(
    way: Chain, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, line: str
) -> None:
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")  # there is no name server here to wait for
    done = Qosctl(way.start)("path", *words, check=False)
    assert done.returncode == code
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_wire_is_pulled_in_the_middle(way: Chain) -> None:
    with way.rules(1, "meta l4proto udp drop", hook="prerouting"):  # nobody answers, so the walk lasts
        walking = way.start.popen(
            [str(COMMAND), "path", way.address(HOPS, 4)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert walking.stdout is not None
        walking.stdout.readline()
        way.start.run(["ip", "link", "set", "right", "down"])
        try:
            _out, err = walking.communicate(timeout=30)
        finally:
            way.restore()
    assert walking.returncode == 2
    assert err.strip() == f"qosctl: cannot send to {way.address(HOPS, 4)}: Network is unreachable (try: ip route)"


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_full_disk_is_a_line(way: Chain, words: list[str]) -> None:
    argv = ["sh", "-c", 'exec "$@" >/dev/full', "sh", str(COMMAND), "path", way.address(1, 4), *words]
    done = way.start.run(argv, check=False)
    assert (done.returncode, done.stderr) == (2, "qosctl: No space left on device\n")


def test_no_route_gets_one_line(way: Chain) -> None:
    way.start.run(["ip", "route", "del", "default"])
    try:
        done = Qosctl(way.start)("path", "192.0.2.1", check=False)
    finally:
        way.start.run(["ip", "route", "add", "default", "via", way.address(1, 4)])
    assert done.returncode == 2
    assert "cannot send to 192.0.2.1" in done.stderr


def test_without_privilege_one_line_says_what_is_missing(way: Chain) -> None:
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    done = way.start.run([*argv, "--", str(COMMAND), "path", way.address(HOPS, 4)], check=False)
    assert done.returncode == 4
    assert "CAP_NET_RAW" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.audit
def test_what_strangers_send_keeps_nobody_waiting_beyond_his_time() -> None:
    """Finding 20: whoever sends ICMP faster than it is read made a trace endless."""
    with Namespace("flooded") as namespace, namespace.entered(), Prober("127.0.0.1", 40001) as prober:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(2 * LATE_MAX):
                stranger.sendto(b"", ("127.0.0.1", 9))  # where nobody listens, says ICMP
        assert prober.listen(time.monotonic()) is None
        assert select.select([prober._icmp], [], [], 0)[0]  # not all was read
