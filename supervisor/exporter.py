"""What an exporter needs besides the maps, whoever serves: hooks, version, and how it complains."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.registry import CollectorRegistry
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.maps.device_pins import DevicePins
from qosctl.dtls.events import Say, Severity
from qosctl.metrics.collector import KernelCollector, registry_of
from qosctl.metrics.readings import Attachment
from qosctl.supervisor.devices import hooks
from qosctl.supervisor.process import privileges, system_calls


def only_look() -> None:
    """Keep what it takes to look at maps and hooks, for good. To be called before any thread is started.

    Where this kernel, or a library that is missing, does not let us, nothing is promised.
    """
    with suppress(OSError):
        privileges.limit(privileges.LOOKERS)
    with suppress(RefusedError):
        system_calls.give_up(system_calls.exporters(os.getpid()), foreign=False)


def registry(say: Say) -> CollectorRegistry:
    """Return all metrics of this network namespace; `say` hears, once each, of parts that cannot be read."""
    return registry_of(KernelCollector(attachment_of, version=_version(), report=_Complaints(say)))


def attachment_of(pins: DevicePins) -> Attachment | None:
    """Return what stands at the device's hook, as the kernel says.

    An attach with another hook moves the program while it marks; it may slip from one hook to the other between our looks
    at them, so only a second look tells that it is not there.
    """
    return _attachment(pins) or _attachment(pins)


def _attachment(pins: DevicePins) -> Attachment | None:
    hook = hooks.in_use(pins)
    program_id = hook.attached() if hook is not None else None
    if hook is None or program_id is None:
        return None
    return Attachment(hook.kind.value, pins.program_info(program_id), len(hook.ahead()))


class _Complaints:
    """Says once that a part cannot be read, and once that it can again, however often it is scraped."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._said: dict[str, str] = {}

    def __call__(self, part: str, error: Exception | None) -> None:
        before = self._said.pop(part, "")
        if error is not None:
            self._said[part] = str(error)
            if before != str(error):
                self._say(Severity.WARNING, f"metrics: {part}: {error}")
        elif before:
            self._say(Severity.NOTICE, f"metrics: {part}: readable again")


def _version() -> str:
    try:
        return version("qosctl")
    except PackageNotFoundError:  # run from the source tree
        return "uninstalled"
