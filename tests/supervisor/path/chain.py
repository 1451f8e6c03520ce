"""A way of seven routers, for both families, any of which can be told to spoil the mark.

    start --- r1 --- r2 --- r3 --- r4 --- r5 --- r6 --- r7 --- far
              hop 1  hop 2  ...                         hop 7  hop 8

Wire i joins node i and node i + 1: 10.92.i.0/24 and fd92:ai::/64, .1 on the near side and .2 on the far one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from tests.lab import Namespace, veth

ROUTERS = 7
HOPS = ROUTERS + 1


class Chain:
    """The namespaces, by hop number; 0 is where we start."""

    def __init__(self, nodes: list[Namespace]) -> None:
        self.nodes = nodes

    @property
    def start(self) -> Namespace:
        return self.nodes[0]

    def restore(self) -> None:
        """Put the first wire back that was pulled: routes and IPv6 addresses went with it."""
        self.start.ip("link set right up", "addr replace fd92:a0::1/64 dev right nodad")
        _route(self.start, 0)

    @staticmethod
    def address(hop: int, family: int) -> str:
        """The address a hop answers from: of the interface the packet came in by."""
        return f"10.92.{hop - 1}.2" if family == 4 else f"fd92:a{hop - 1}::2"

    @contextlib.contextmanager
    def rules(self, hop: int, *rules: str, hook: str = "postrouting") -> Iterator[None]:
        """Let a hop treat the packets it forwards by these nft rules inside the block."""
        body = "\n".join(rules)
        chain = f"chain spoil {{ type filter hook {hook} priority mangle; policy accept;\n{body}\n}}"
        self.nodes[hop].run(["nft", "-f", "-"], stdin=f"table inet spoil {{\n{chain}\n}}\n")
        try:
            yield
        finally:
            self.nodes[hop].run(["nft", "delete", "table", "inet", "spoil"])


@contextlib.contextmanager
def chain() -> Iterator[Chain]:
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Namespace(f"hop{number}")) for number in range(HOPS + 1)]
        for number, (near, far) in enumerate(itertools.pairwise(nodes)):
            stack.enter_context(veth(near, "right", far, "left"))
            _number(near, "right", number, 1)
            _number(far, "left", number, 2)
        for number, node in enumerate(nodes):
            _route(node, number)
        yield Chain(nodes)


def _number(node: Namespace, device: str, wire: int, end: int) -> None:
    node.ip(f"addr add 10.92.{wire}.{end}/24 dev {device}", f"addr add fd92:a{wire}::{end}/64 dev {device} nodad")


def _route(node: Namespace, number: int) -> None:
    node.sysctl("net.ipv4.ip_forward", "1")
    node.sysctl("net.ipv6.conf.all.forwarding", "1")
    lines = []
    if number < HOPS:  # all that is further on, and back to what we have passed
        lines += [f"route add default via 10.92.{number}.2", f"route add default via fd92:a{number}::2"]
    for wire in range(number - 1):
        lines += [
            f"route add 10.92.{wire}.0/24 via 10.92.{number - 1}.1",
            f"route add fd92:a{wire}::/64 via fd92:a{number - 1}::1",
        ]
    node.ip(*lines)
