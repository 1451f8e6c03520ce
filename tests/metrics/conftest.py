"""One namespace with a device and an exporter for a whole file: the exporter remembers nothing, so tests can share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.maps import namespace_maps

from tests.lab import Namespace, Qosctl, veth
from tests.lab.exporter import Exporter


@pytest.fixture(scope="module")
def wired() -> Iterator[Namespace]:
    """A namespace whose eth0 sends nothing of its own accord: no IPv6, and the peer's address is known."""
    with Namespace("metrics") as namespace, Namespace("peer") as peer, veth(namespace, "eth0", peer, "eth0"):
        for end in (namespace, peer):
            end.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")
        namespace.run(["ip", "address", "add", "10.91.9.1/24", "dev", "eth0"])
        neighbour = ["10.91.9.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0", "nud", "permanent"]
        namespace.run(["ip", "neighbour", "replace", *neighbour])
        yield namespace


@pytest.fixture(scope="module")
def exporter(wired: Namespace) -> Iterator[Exporter]:
    with Exporter(wired) as running:
        yield running


@pytest.fixture
def bare(wired: Namespace) -> Iterator[Namespace]:
    """The wired namespace with nothing of ours in it, before and after."""
    qosctl = Qosctl(wired)
    qosctl.detach_all()
    yield wired
    qosctl.detach_all()


@pytest.fixture
def with_maps(bare: Namespace) -> Iterator[Namespace]:
    """The maps alone, as a client makes them that comes before any attach."""
    with bare.entered():
        bpffs.ensure_mounted()
        with bpffs.locked():
            namespace_maps.create_state()
    yield bare
    with bare.entered():
        bpffs.remove_tree(namespace_maps.folder())
