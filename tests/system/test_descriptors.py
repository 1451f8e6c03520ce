"""A limit of descriptors that is too low gets a good line and nothing behind it, whatever was being made (finding 20)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Ocserv, Topology
from tests.lab.qosctl import COMMAND

LIMITS = range(6, 14)
"""With five Python does not start; with fourteen the tunnel comes up."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def server(lab: Topology) -> Iterator[Ocserv]:
    with Ocserv(lab.server, [lab.server4]) as server:
        yield server


def said(lab: Topology, limit: int, *words: str) -> tuple[int, list[str]]:
    done = lab.client.run(["prlimit", f"--nofile={limit}", str(COMMAND), *words], check=False)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.audit
@pytest.mark.parametrize("limit", LIMITS)
def test_a_client_that_gets_no_descriptor_says_so_and_nothing_else(lab: Topology, server: Ocserv, limit: int) -> None:
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--ca", str(server.ca)]
    url = f"https://{lab.server4}:{server.port}"
    code, lines = said(lab, limit, "connect", url, *login, "--script", "none", "-i", "vpn0")
    assert code in {2, 3}
    assert "Too many open files" in lines[-1]
    assert all(line.startswith("qosctl: ") for line in lines), "each of ours, and no traceback behind"


@pytest.mark.audit
def test_an_exporter_that_gets_no_descriptor_says_so_in_one_line(lab: Topology) -> None:
    code, lines = said(lab, 6, "metrics", "--listen", "0")
    assert code == 2
    (line,) = lines
    assert "Too many open files" in line
