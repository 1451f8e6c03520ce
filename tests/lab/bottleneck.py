"""A slow uplink with fast lanes for EF and AF41: what a marked packet is marked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tests.lab.namespace import Namespace

_DSCP_MASK = "0xfc"


@dataclass(frozen=True)
class _Lane:
    """A class of the queue; `traffic_class` None is for all that no other lane takes. Low `prio` goes first."""

    classid: str
    traffic_class: int | None
    prio: int
    share: float
    limit_bytes: int


class Bottleneck:
    """`rate_mbit` towards `interface`: EF first, then AF41, all else behind a queue of `bulk_bytes`.

    The bulk queue is 100 ms long at 20 Mbit/s. Borrowing lets each class use the whole rate when the others are silent.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        rate_mbit: float = 20,
        *,
        ef_bytes: int = 50_000,
        af41_bytes: int = 100_000,
        bulk_bytes: int = 250_000,
    ) -> None:
        self._namespace = namespace
        self._interface = interface
        self._rate = rate_mbit
        self._lanes = (
            _Lane("1:10", 0xB8, 0, 0.25, ef_bytes),
            _Lane("1:15", 0x88, 1, 0.25, af41_bytes),
            _Lane("1:20", None, 2, 0.5, bulk_bytes),
        )

    def __enter__(self) -> Self:
        try:
            self._tc("qdisc", "add", *self._device, "root", "handle", "1:", "htb", "default", "20")
            self._tc("class", "add", *self._device, "parent", "1:", "classid", "1:1", "htb", "rate", self._kbit(1))
            for lane in self._lanes:
                self._add(lane)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._namespace.run(["tc", "qdisc", "del", "dev", self._interface, "root"], check=False)

    @property
    def _device(self) -> list[str]:
        return ["dev", self._interface]

    def _add(self, lane: _Lane) -> None:
        rates = ["rate", self._kbit(lane.share), "ceil", self._kbit(1), "prio", str(lane.prio)]
        self._tc("class", "add", *self._device, "parent", "1:1", "classid", lane.classid, "htb", *rates)
        self._tc("qdisc", "add", *self._device, "parent", lane.classid, "bfifo", "limit", str(lane.limit_bytes))
        if lane.traffic_class is None:
            return
        for prio, protocol, field in (("1", "ip", ["ip", "dsfield"]), ("2", "ipv6", ["ip6", "priority"])):
            match = ["match", *field, hex(lane.traffic_class), _DSCP_MASK]
            where = ["parent", "1:", "protocol", protocol, "prio", prio]
            self._tc("filter", "add", *self._device, *where, "u32", *match, "flowid", lane.classid)

    def _kbit(self, share: float) -> str:
        return f"{round(self._rate * share * 1000)}kbit"

    def _tc(self, *words: str) -> None:
        self._namespace.run(["tc", *words])
