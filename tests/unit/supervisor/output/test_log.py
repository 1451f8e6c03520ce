"""Lines of people's and the journal's."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from qosctl.dtls.events import Severity
from qosctl.supervisor.output.log import Log


def test_a_person_reads_who_says_it_and_the_journal_how_much_it_matters(tmp_path: Path) -> None:
    for name, expected in (("ours", "<4>the server went away\n"), ("other", "qosctl: the server went away\n")):
        with (tmp_path / name).open("w+") as stream:
            found = os.fstat(stream.fileno())
            inode = found.st_ino if name == "ours" else found.st_ino + 1
            Log(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{inode}"}).warning("the server went away")
        assert (tmp_path / name).read_text() == expected


@pytest.mark.parametrize("named", ["", "nonsense", "8:", "8:1"])
def test_where_there_is_no_journal_lines_are_plain(named: str) -> None:
    stream = io.StringIO()
    Log(stream, {"JOURNAL_STREAM": named}).error("no")
    assert stream.getvalue() == "qosctl: no\n"


def test_only_what_matters_enough_is_said() -> None:
    stream = io.StringIO()
    log = Log(stream, {}, least=Severity.WARNING)
    for severity in Severity:
        log.say(severity, severity.name)
    assert stream.getvalue() == "qosctl: ERROR\nqosctl: WARNING\n"


def test_what_a_server_says_stays_within_its_line() -> None:
    stream = io.StringIO()
    Log(stream, {}).notice("bye\n<0>kernel panic\x1b[2J\u2028é")
    assert stream.getvalue() == "qosctl: bye\\n<0>kernel panic\\x1b[2J\\u2028é\n"


def test_nobody_who_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        Log(stream, {}).notice("to nobody")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # for what is buffered
    Log(stream, {}).notice("to nobody at all")
