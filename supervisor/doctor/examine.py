"""The whole examination. Checks that take time run in parallel, each in a throw-away child process.

A group that cannot look - no privilege, a missing tool, a device that goes away meanwhile - becomes a line in the report.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from qosctl.bpf.errors import NoPermissionError, QosctlError, kernel_errors
from qosctl.supervisor.devices.status import DeviceStatus, status
from qosctl.supervisor.doctor import (
    blocked_routes,
    foreign_programs,
    host_snapshot,
    marking_path,
    matrix,
    other_markers,
    requirements,
    rules,
    selftest,
)
from qosctl.supervisor.doctor.finding import Finding, Level, passed, warned
from qosctl.supervisor.doctor.matrix_row import MatrixRow
from qosctl.supervisor.doctor.probe_netns import ProbeNetns
from qosctl.supervisor.doctor.scratch_netns import Pending, started

COULD_NOT_LOOK = "could not look"


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which a mark depends on them, and the rows of the matrix (empty if not to be had)."""

    findings: Sequence[Finding]
    behaviours: Sequence[MatrixRow]

    def at(self, level: Level) -> list[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level is level]


def examine(devices: Sequence[str]) -> Report:
    """Look at everything; `devices` are those of interest, or none for all that matter."""
    with kernel_errors("doctor"):
        return _examine(devices)


def _examine(devices: Sequence[str]) -> Report:
    selectors = list(host_snapshot.selectors())
    with (
        started("trying the hooks", requirements.tried) as hooks,
        started("the self-test of the stamp", selftest.run) as stamp,
        started("probing the kernel", matrix.behaviours) as kernel,
        started("trying this machine's rules", lambda: rules.matches(ProbeNetns(), selectors)) as matched,
    ):
        findings = [
            *_guarded("machine", requirements.here),
            *_guarded("hooks", hooks.result),
            *_guarded("running", lambda: _running(devices)),
            *_guarded("blocked", blocked_routes.check),
            *_guarded("rules", lambda: rules.check(selectors, matched.result())),
            *_guarded("stamp", lambda: selftest.check(stamp.result(), _attached())),
        ]
        rows: list[MatrixRow] = []
        findings += _guarded("kernel", lambda: _kernel(kernel, rows))
    return Report(findings, rows)


def kernel_matrix() -> Sequence[MatrixRow]:
    """Return the rows of the matrix alone."""
    with kernel_errors("doctor"), started("probing the kernel", matrix.behaviours) as kernel:
        return kernel.result()


def _running(devices: Sequence[str]) -> Iterator[Finding]:
    seen = marking_path.observe(devices)
    yield from marking_path.check(seen)
    now = seen.after.status
    there = [name for name in dict.fromkeys([*seen.watched, *(d.name for d in now.devices)]) if name in seen.after.sent]
    yield from _guarded(
        "neighbours", lambda: foreign_programs.check(there, {device.name: device for device in now.devices})
    )
    yield from _guarded("others", lambda: other_markers.check(now.flows))


def _attached() -> Sequence[DeviceStatus]:
    with contextlib.suppress(NoPermissionError):
        return status().devices
    return ()


def _kernel(pending: Pending[list[MatrixRow]], rows: list[MatrixRow]) -> Iterator[Finding]:
    rows += pending.result()
    odd = sum(row.surprising for row in rows)
    differ = sum(not row.families_agree for row in rows)
    yield passed(
        "kernel-behaviour",
        f"{len(rows)} behaviours of this kernel tried, {odd} of them surprising, {differ} unlike on IPv4 and IPv6",
        "qosctl stamps behind all of them; `qosctl doctor --matrix` shows what programs and rules meet",
    )


def _guarded(group: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of one group; what stopped it is a finding too, and those before it stay."""
    try:
        yield from look()
    except NoPermissionError as error:
        yield warned(
            group, f"{COULD_NOT_LOOK}: {error.message}", "whether marking works is not known", "sudo qosctl doctor"
        )
    except QosctlError as error:
        yield warned(group, f"{COULD_NOT_LOOK}: {error.message}", "this part is not known", error.hint)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield warned(group, f"{COULD_NOT_LOOK}: {error}", "this part is not known", "run it again")
