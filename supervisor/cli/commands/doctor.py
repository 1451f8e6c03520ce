"""`qosctl doctor [DEV...] [--json] [--matrix]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from qosctl.bpf.printable import one_line
from qosctl.supervisor.doctor.examine import COULD_NOT_LOOK, Report, examine, kernel_matrix
from qosctl.supervisor.doctor.finding import Finding, Level
from qosctl.supervisor.doctor.matrix import kernel_name, markdown, to_json
from qosctl.supervisor.output.exit_codes import Exit
from qosctl.supervisor.output.json_documents import Json, document, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the devices and the form of the answer."""
    parser.add_argument("device", nargs="*", metavar="DEV", help="devices of interest (default: those that matter here)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument(
        "--matrix", action="store_true", help="only what this kernel does with TOS, DSCP and ECN, as a table"
    )


def run(arguments: argparse.Namespace, out: TextIO) -> Exit:
    """Examine and report, worst first; exits 2 on a FAIL."""
    try:
        if arguments.matrix:
            return _matrix(arguments, out)
        report = examine(arguments.device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing is left behind") from None
    if arguments.json:
        write_json(_json(report), out)
    else:
        _print(report, out)
    return Exit.REFUSED if report.at(Level.FAIL) else Exit.FINE


def _matrix(arguments: argparse.Namespace, out: TextIO) -> Exit:
    rows = kernel_matrix()
    if arguments.json:
        write_json(document(kernel=kernel_name(), behaviours=to_json(rows)), out)
    else:
        print("\n".join(markdown(rows)), file=out)
    return Exit.FINE


def _print(report: Report, out: TextIO) -> None:
    lines: list[str] = []
    for finding in report.at(Level.FAIL) + report.at(Level.WARN):
        lines += [f"{finding.level.value}  {finding.seen}", f"      {finding.means}", f"      fix: {finding.fix}"]
    for finding in report.at(Level.PASS):
        lines.append(f"ok    {finding.seen}" + (f": {finding.means}" if finding.means else ""))
    for line in lines:
        print(one_line(line), file=out)  # names of devices and programs are in them
    print(file=out)
    print(one_line(_conclusion(report.at(Level.FAIL), report.at(Level.WARN))), file=out)


def _conclusion(failures: Sequence[Finding], warnings: Sequence[Finding]) -> str:
    """One sentence for somebody who reads only one."""
    if failures:
        return f"{failures[0].seen}. Begin with: {failures[0].fix}"
    if any(finding.seen.startswith(COULD_NOT_LOOK) for finding in warnings):
        return "nothing seen that stops marking, but not all could be seen (try: sudo qosctl doctor)"
    if warnings:
        return "marking works on this machine; whether the network keeps the marks: qosctl path HOST"
    return "nothing to mend on this machine; whether the network keeps the marks: qosctl path HOST"


def _json(report: Report) -> Json:
    return document(
        ok=not report.at(Level.FAIL),
        kernel=kernel_name(),
        findings=[
            {"level": f.level.value, "check": f.check, "seen": f.seen, "means": f.means, "fix": f.fix}
            for f in report.findings
        ],
        behaviours=to_json(report.behaviours),
    )
