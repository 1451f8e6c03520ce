"""A slow uplink with a fast lane for EF: what a marked packet is marked for."""

from __future__ import annotations

from typing import Self

from tests.lab.namespace import Namespace

_EF_TRAFFIC_CLASS, _DSCP_MASK = "0xb8", "0xfc"


class Bottleneck:
    """`rate_mbit` towards `interface`, EF first, all else behind a queue of `bulk_bytes` (100 ms at 20 Mbit/s).

    Borrowing lets either class use the whole rate when the other is silent.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        rate_mbit: float = 20,
        *,
        ef_bytes: int = 50_000,
        bulk_bytes: int = 250_000,
    ) -> None:
        self._namespace = namespace
        self._interface = interface
        self._rate = rate_mbit
        self._ef_bytes = ef_bytes
        self._bulk_bytes = bulk_bytes

    def __enter__(self) -> Self:
        whole, quarter, rest = (f"{round(self._rate * part * 1000)}kbit" for part in (1, 0.25, 0.75))
        device = ["dev", self._interface]
        try:
            self._tc("qdisc", "add", *device, "root", "handle", "1:", "htb", "default", "20")
            self._tc("class", "add", *device, "parent", "1:", "classid", "1:1", "htb", "rate", whole)
            self._lane("1:10", quarter, whole, "0", self._ef_bytes)
            self._lane("1:20", rest, whole, "1", self._bulk_bytes)
            for prio, protocol, field in (("1", "ip", ["ip", "dsfield"]), ("2", "ipv6", ["ip6", "priority"])):
                match = ["match", *field, _EF_TRAFFIC_CLASS, _DSCP_MASK]
                where = ["parent", "1:", "protocol", protocol, "prio", prio]
                self._tc("filter", "add", *device, *where, "u32", *match, "flowid", "1:10")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._namespace.run(["tc", "qdisc", "del", "dev", self._interface, "root"], check=False)

    def _lane(self, classid: str, rate: str, ceil: str, prio: str, limit_bytes: int) -> None:
        device = ["dev", self._interface]
        self._tc(
            "class",
            "add",
            *device,
            "parent",
            "1:1",
            "classid",
            classid,
            "htb",
            "rate",
            rate,
            "ceil",
            ceil,
            "prio",
            prio,
        )
        self._tc("qdisc", "add", *device, "parent", classid, "bfifo", "limit", str(limit_bytes))

    def _tc(self, *words: str) -> None:
        self._namespace.run(["tc", *words])
