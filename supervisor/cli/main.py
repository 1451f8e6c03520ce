"""The command line: a table of commands, one line an error, one exit code a kind of error.

`qosctl: eth0: no such device (try: ip link)` to stderr, results to stdout, no traceback without --debug.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, TextIO

from qosctl.bpf.errors import InternalError, NoPermissionError, QosctlError, UsageError
from qosctl.supervisor.output.exit_codes import Exit, exit_for
from qosctl.supervisor.output.log import Log

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS: dict[str, str] = {
    "attach": "put the marking program on a device's egress (or bring it up to date)",
    "detach": "take it off again",
    "passtos": "switch the copying of marks on or off, or ask",
    "policy": "show or change what becomes of each inner class",
    "follow": "mark the outer packets of tunnels that others run",
    "unfollow": "leave them alone again",
    "connect": "open a DTLS tunnel whose records are marked",
    "unblock": "let out again what a tunnel that died has left blocked",
    "status": "what is attached, whether it is on, what it did",
    "flows": "the tunnels that are marked",
    "doctor": "why nothing changes: look at this machine and say what to mend",
    "path": "does the mark survive on the way to a host, and where does it die",
    "metrics": "serve Prometheus metrics",
    "supervise": "keep devices attached as a configuration says, and serve metrics",
    "top": "watch classes, outcomes and tunnels live",
}

_DESCRIPTION = """\
Carries the DSCP of what is inside a DTLS VPN tunnel onto its outer packets. Off until `qosctl passtos on`, because copying
a mark shows the class of what is inside to everyone on the path."""

_EPILOG = (
    "Exit codes: 0 fine, 1 usage, 2 the kernel or the server refused, 3 not attached or not connected, 4 no permission, "
    "5 the login was refused, 6 the server ended the session on purpose, 7 the server has no room now, 70 a fault of "
    "qosctl's own, 130 interrupted. 1, 5 and 6 do not get better by starting again."
)


_DEBUG = "show where an error came from"
_DEBUG_HELP = {"connect": f"{_DEBUG}, and the headers of each packet: never what is in it, 500 a second at most"}


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code for usage errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.USAGE, f"{self.prog}: {message} (try: {self.prog} --help)\n")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse may say nothing of a full disk
        print(end="", flush=True)


class _PrintVersion(argparse.Action):
    """Asks the package's metadata and OpenSSL only when somebody wants to know: it costs a tenth of a second."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del namespace, values, option_string
        from importlib.metadata import version  # noqa: PLC0415 - as said

        from qosctl.dtls.record import openssl  # noqa: PLC0415 - as said

        print(f"qosctl {version('qosctl')}\n{openssl.in_use()}", flush=True)
        parser.exit(Exit.FINE)


def command_module(name: str) -> ModuleType:
    """Import the module of one command."""
    return importlib.import_module(f"qosctl.supervisor.cli.commands.{name}")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the whole parser, or one that has the arguments of a single command, which imports only that one."""
    parser = _Parser(prog="qosctl", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the version, and the OpenSSL in use, and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.add_argument("--debug", action="store_true", help=_DEBUG_HELP.get(name, _DEBUG))
        if only in (None, name):
            command_module(name).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Run one command; returns the exit code. It raises nothing: what goes wrong is one line, with --debug and where."""
    ours = argv is None  # the process is
    if argv is None:
        argv = sys.argv[1:]
        _open_standard_descriptors()
        _hush_what_dies_half_made(argv)
    out = out or sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - who closed ours wants to hear nothing
    err = err or sys.stderr
    for stream in {out, err}:
        if isinstance(stream, io.TextIOWrapper):  # a device's name may be any bytes
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(argv, out, err)
    except KeyboardInterrupt as interrupt:  # on its way here it has undone what was half done
        if ours:
            _hush_what_is_cut_off(argv)
        if str(interrupt):
            Log(err, os.environ).error(str(interrupt))
        return Exit.INTERRUPTED


def _open_standard_descriptors() -> None:
    """Put nothing in the place of what is closed of stdin, stdout and stderr.

    Else the next file or socket that is opened would be one of them: a child writes there, and a helper closes it.
    """
    with contextlib.suppress(OSError):  # no /dev, or no descriptor left: then it is as it is
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # stderr's number
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def _hush_what_dies_half_made(argv: Sequence[str]) -> None:
    """Let --debug alone show what Python can only print: objects of libraries that complain when they go.

    One that got no descriptor was never finished, and says so in a dozen lines behind ours. The error that left it so is
    raised in the ordinary way, and told. None of our own objects does anything when it goes.
    """
    if "--debug" not in argv:
        sys.unraisablehook = lambda _: None


def _hush_what_is_cut_off(argv: Sequence[str]) -> None:
    """Let --debug alone show what coroutines say that never ended: pyroute2 makes one of each request to the kernel."""
    if "--debug" not in argv:
        import logging  # noqa: PLC0415 - dear, and who has no coroutine has no need of it

        warnings.simplefilter("ignore", RuntimeWarning)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _run(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    named = next((word for word in argv if word in COMMANDS), "")
    arguments = argparse.Namespace(command=named, debug="--debug" in argv, json=False)  # until they are understood
    try:
        try:
            build_parser(only=named).parse_args(argv, arguments)
            code = int(command_module(arguments.command).run(arguments, out))
            out.flush()
            return code
        except PermissionError as error:
            raise NoPermissionError(
                f"{error.filename or arguments.command}: permission denied", "run it as root"
            ) from error
    except QosctlError as error:
        failure = error
    except OSError as error:
        if arguments.debug:
            _show_where(error, err)
        return _stopped(error, out, err)
    except Exception as error:  # the last place where a fault of ours can become one line
        failure = InternalError.of(error)
    if arguments.debug:
        _show_where(failure, err)
    _report(failure, arguments, out, err)
    return exit_for(failure)


def _show_where(error: Exception, err: TextIO) -> None:
    import traceback  # noqa: PLC0415 - costs the quick commands 5 ms, and few ask

    with contextlib.suppress(OSError):  # nobody may be reading
        traceback.print_exception(error, file=err)


def _stopped(error: OSError, out: TextIO, err: TextIO) -> int:
    """Say what the system refused: our output, most likely, because a disk is full. Then it names no file."""
    where = f"{error.filename}: " if error.filename else ""
    if not isinstance(error, BrokenPipeError):  # its reader has heard enough
        Log(err, os.environ).error(f"{where}{error.strerror or error}")
    with contextlib.suppress(OSError):
        out.close()  # or what is left in it would be tried again, and told of, at the end
    return Exit.FINE if isinstance(error, BrokenPipeError) else Exit.REFUSED


def _report(error: QosctlError, arguments: argparse.Namespace, out: TextIO, err: TextIO) -> None:
    if arguments.json:
        from qosctl.supervisor.output.json_documents import error_document, write_json  # noqa: PLC0415 - json costs the quick commands

        try:
            write_json(error_document(error), out)
            out.flush()
        except OSError as unheard:
            _stopped(unheard, out, err)
    line = str(error) if not isinstance(error, UsageError) else f"{arguments.command}: {error}"
    Log(err, os.environ).error(line)
