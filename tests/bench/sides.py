"""The clients that are measured, each a line of a table, one at a time against the same server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import LabError, Namespace, Ocserv, Qosctl, Topology
from tests.lab.openconnect import Openconnect

_TICKS_PER_SECOND = 100  # USER_HZ, which /proc uses whatever the kernel's own clock is


@dataclass(frozen=True)
class Side:
    """A client and how it is run: `passtos` is openconnect's option or qosctl's switch, `words` go to `connect`."""

    name: str
    ours: bool
    passtos: bool
    words: tuple[str, ...] = ()


OPENCONNECT = Side("openconnect", ours=False, passtos=False)
OPENCONNECT_PASSTOS = Side("openconnect --passtos", ours=False, passtos=True)
QOSCTL_PLAIN = Side("qosctl plain", ours=True, passtos=True, words=("--numbering", "plain"))
QOSCTL_AUTO = Side("qosctl auto", ours=True, passtos=True, words=("--numbering", "replay-safe"))
QOSCTL_OFF = Side("qosctl off", ours=True, passtos=False)
SIDES = (OPENCONNECT, OPENCONNECT_PASSTOS, QOSCTL_PLAIN, QOSCTL_AUTO, QOSCTL_OFF)


@dataclass(frozen=True)
class Client:
    """A client that is connected, with its tunnel device and its IPv4 address there."""

    namespace: Namespace
    pid: int
    device: str
    address: str
    ours: bool

    def suspected(self) -> int | None:
        """Return the records that ours believes the server to have dropped as replays; None for another client."""
        if not self.ours:
            return None
        return Qosctl(self.namespace).statistics().get("replay_losses_suspected", 0)

    def cpu_us(self) -> float:
        """Return user and system time of all its threads so far, in microseconds, to 10 ms."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) * 1e6 / _TICKS_PER_SECOND

    def packets(self) -> tuple[int, int]:
        """Return how many packets it took from its device and how many it put there."""
        return packets(self.namespace, self.device)


@contextlib.contextmanager
def connected(side: Side, net: Topology, server: Ocserv) -> Iterator[Client]:
    """Connect. The program is attached only where qosctl runs: nobody else pays for it."""
    with contextlib.ExitStack() as stack:
        if side.ours:
            qosctl = Qosctl(net.client)
            qosctl("attach", net.client_if)
            stack.callback(qosctl, "detach", net.client_if)
            qosctl("passtos", "on" if side.passtos else "off")
            ours = stack.enter_context(qosctl.connect(server, net.server4, *side.words))
            pid, device = ours.process.pid, ours.device
        else:
            other = stack.enter_context(Openconnect(net.client, server, net.server4, passtos=side.passtos))
            pid, device = other.process.pid, other.device
        yield Client(net.client, pid, device, _address(net.client, device), side.ours)


def packets(namespace: Namespace, prefix: str) -> tuple[int, int]:
    """Return sent and received packets of the devices whose names begin so, as the namespace sees it."""
    counts = [link["stats64"] for link in _ip(namespace, "-s", "link", "show") if link["ifname"].startswith(prefix)]
    return sum(each["tx"]["packets"] for each in counts), sum(each["rx"]["packets"] for each in counts)


def _address(namespace: Namespace, device: str) -> str:
    for link in _ip(namespace, "-4", "addr", "show", "dev", device):
        for address in link.get("addr_info", ()):
            return str(address["local"])
    raise LabError(f"{device} has no IPv4 address")


def _ip(namespace: Namespace, *words: str) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(namespace.run(["ip", "-j", *words]).stdout)
    return said
