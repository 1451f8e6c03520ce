"""Two ways of different length to the server: datagrams take them in turn, so a class is late to itself.

               .-- at once ------------------.
    router ----|                             |---- server
               '-- a full queue, HOLD ms ----'

The second way carries less than its half, so its queue is always full and holds each datagram for about as long.
"""

from __future__ import annotations

import contextlib
from typing import Self

from tests.lab.namespace import Namespace

_AT_ONCE, _HELD = "1:1", "1:2"
_UNLIMITED_KBIT = 10_000_000


class TwoWays:
    """Sends UDP to `port` out of `interface` by two ways in turn; the second carries `kbit` and holds `hold_ms`."""

    def __init__(self, namespace: Namespace, interface: str, port: int, *, kbit: int, hold_ms: float) -> None:
        self._namespace, self._device, self._port = namespace, ["dev", interface], port
        self._kbit = kbit
        self._limit = round(kbit * hold_ms / 8)  # bytes

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._tc("qdisc", "add", *self._device, "root", "handle", "1:", "htb", "default", "1")
            stack.callback(self._tc, "qdisc", "del", *self._device, "root")
            for classid, kbit in ((_AT_ONCE, _UNLIMITED_KBIT), (_HELD, self._kbit)):
                rates = ["rate", f"{kbit}kbit", "ceil", f"{kbit}kbit", "quantum", "1514"]
                self._tc("class", "add", *self._device, "parent", "1:", "classid", classid, "htb", *rates)
            self._tc("qdisc", "add", *self._device, "parent", _HELD, "bfifo", "limit", str(self._limit))
            # A class's number in the packet's priority is the class that HTB takes.
            self._namespace.run(
                ["nft", "-f", "-"],
                stdin=f"""table inet two_ways {{
                    chain turns {{
                        type filter hook postrouting priority 0
                        udp dport {self._port} numgen inc mod 2 1 meta priority set {_HELD}
                    }}
                }}""",
            )
            stack.callback(self._namespace.run, ["nft", "delete", "table", "inet", "two_ways"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _tc(self, *words: str) -> None:
        self._namespace.run(["tc", *words])
