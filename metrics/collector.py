"""The collector: reads everything at each scrape and remembers nothing but where, so it can be killed at will.

Scrapes fail in parts, never as a whole: a part that cannot be read has `qosctl_part_readable` 0 and no samples.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from qosctl.bpf.flow_page.reader import RingPages
from qosctl.bpf.maps.device_pins import DevicePins
from qosctl.bpf.maps.flows import Flow
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.metrics import families, readings
from qosctl.metrics.followed import followed_families
from qosctl.metrics.readings import AttachmentOf, Device
from qosctl.metrics.tunnels import tunnel_families

T = TypeVar("T")
Report = Callable[[str, Exception | None], None]

# A folder of pins goes pin by pin when a device is detached, and looks damaged for less than a millisecond.
_SECOND_LOOK_AFTER = 0.01


class KernelCollector(Collector):
    """Reads the pinned maps below `state()`, the namespace's folder of pins, which need not exist.

    `attachment_of` says what stands at a device's hook. `report(part, error)` hears of every part that could not be read,
    and, with None, of every one that could.
    """

    def __init__(
        self, attachment_of: AttachmentOf, *, version: str, report: Report, state: Callable[[], Path] = folder
    ) -> None:
        self._attachment_of = attachment_of
        self._version = version
        self._report = report
        self._state = state
        self._pages = RingPages()
        self._one_at_a_time = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield all families; raises nothing."""
        started = time.perf_counter()
        scrape = _Scrape(self._report)
        yield from families.switch_families(scrape.read("switch", lambda: readings.read_passtos(self._state())))
        yield from families.policy_families(scrape.read("policy", lambda: readings.read_policy(self._state())))
        yield from families.device_families(self._devices(scrape))
        yield from followed_families(scrape.read("followed", lambda: readings.read_followed(self._state())))
        yield from self._flow_families(scrape)
        yield from families.scrape_families(scrape.readable, time.perf_counter() - started, self._version)

    def _devices(self, scrape: _Scrape) -> list[Device]:
        """Read each device on its own: one with a damaged pin does not hide the others."""
        pinned = scrape.read("devices", lambda: readings.device_pins(self._state())) or ()
        devices = (scrape.read("devices", partial(self._device, pins)) for pins in pinned)
        return [device for device in devices if device is not None]

    def _device(self, pins: DevicePins) -> Device | None:
        if not pins.path.exists():  # detached since the folder was listed
            return None
        return readings.read_device(pins, self._attachment_of)

    def _flows(self) -> tuple[list[Flow], list[Flow]]:
        with self._one_at_a_time:
            return _by_life(readings.read_flows(self._state(), self._pages))

    def _flow_families(self, scrape: _Scrape) -> Iterator[Metric]:
        groups = scrape.read("flows", self._flows)
        alive, dead = groups if groups is not None else (None, None)
        yield from families.flow_families(alive, dead)
        yield from tunnel_families(alive)


class _Scrape:
    """One scrape's bookkeeping: which parts were readable."""

    def __init__(self, report: Report) -> None:
        self.readable: dict[str, bool] = {}
        self._report = report

    def read(self, part: str, reader: Callable[[], T]) -> T | None:
        """Return what `reader` reads, or None after a second failure, which is then noted and reported."""
        try:
            value = _with_second_look(reader)
        except Exception as error:  # whatever is wrong with one part, the scrape answers with the others
            self._report(part, error)
            self.readable[part] = False
            return None
        if self.readable.setdefault(part, True):
            self._report(part, None)
        return value


def _with_second_look(reader: Callable[[], T]) -> T:
    try:
        return reader()
    except OSError:
        time.sleep(_SECOND_LOOK_AFTER)
        return reader()


def _by_life(flows: Sequence[Flow]) -> tuple[list[Flow], list[Flow]]:
    """Split into flows of living and of dead owners."""
    return [flow for flow in flows if flow.alive], [flow for flow in flows if not flow.alive]


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return a registry with `collector` and the exporter's own process in it."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry
