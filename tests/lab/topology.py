"""Client, router and server in a row, as drawn in the package's docstring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

from tests.lab.namespace import Namespace, veth


class Topology:
    """Three namespaces, two wires, IPv4 and IPv6 on each, routes both ways. The router forwards."""

    client_if = "eth0"
    server_if = "eth0"
    router_client_if = "toclient"
    router_server_if = "toserver"

    client4, client6 = "10.91.1.2", "fd91:1::2"
    server4, server6 = "10.91.2.2", "fd91:2::2"
    _router_client4, _router_client6 = "10.91.1.1", "fd91:1::1"
    _router_server4, _router_server6 = "10.91.2.1", "fd91:2::1"

    def __init__(self, *, batches: bool = False) -> None:
        """`batches` lets GSO batches travel uncut (see `veth`)."""
        self.client = Namespace("client")
        self.router = Namespace("router")
        self.server = Namespace("server")
        self._batches = batches
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for namespace in (self.client, self.router, self.server):
                stack.enter_context(namespace)
            wires = (
                (self.client, self.client_if, self.router, self.router_client_if),
                (self.router, self.router_server_if, self.server, self.server_if),
            )
            for wire in wires:
                stack.enter_context(veth(*wire, batches=self._batches))
            self._number()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def server_address(self, family: int) -> str:
        """Return the server's address of IP version 4 or 6."""
        return {4: self.server4, 6: self.server6}[family]

    @contextlib.contextmanager
    def dropping(self, rules: str = "drop") -> Iterator[None]:
        """Let the router drop what it would forward, by nftables `rules`: everything by default."""
        chain = f"type filter hook forward priority 0; {rules};"
        self.router.run(["nft", f"add table inet t; add chain inet t c {{ {chain} }}"])
        try:
            yield
        finally:
            self.router.run(["nft", "delete", "table", "inet", "t"])

    def _number(self) -> None:
        self.router.sysctl("net.ipv4.ip_forward", "1")
        self.router.sysctl("net.ipv6.conf.all.forwarding", "1")
        for namespace, device, v4, v6 in (
            (self.client, self.client_if, self.client4, self.client6),
            (self.router, self.router_client_if, self._router_client4, self._router_client6),
            (self.router, self.router_server_if, self._router_server4, self._router_server6),
            (self.server, self.server_if, self.server4, self.server6),
        ):
            namespace.ip(f"addr add {v4}/24 dev {device}", f"addr add {v6}/64 dev {device} nodad")
        for namespace, gateway4, gateway6 in (
            (self.client, self._router_client4, self._router_client6),
            (self.server, self._router_server4, self._router_server6),
        ):
            namespace.ip(f"route add default via {gateway4}", f"route add default via {gateway6}")
