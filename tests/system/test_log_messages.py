"""What a client that is left running says, where, and how much of it."""

import re
import signal
import subprocess
import time

from tests.lab import Connection
from tests.lab.inside import Inside
from tests.lab.qosctl import COMMAND
from tests.lab.testbed import TUNNEL, Line

EF_BYTE = 46 << 2
SECRET = b"nobody but the server may see this"
_TO_THE_JOURNAL = ["sh", "-c", 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$0" "$@"', str(COMMAND)]


def _words(line: Line, *more: str) -> list[str]:
    server = line.server
    login = ["-u", "alice", "--password-file", str(server.password_file("alice")), "--servercert", server.pin]
    return ["connect", f"https://{line.topology.server4}:{server.port}", "--script", "none", "-i", TUNNEL, *login, *more]


def test_the_journal_gets_a_level_with_each_line(line: Line) -> None:
    with Connection(line.client, _words(line, "--verbose"), command=_TO_THE_JOURNAL) as connection:
        line.restart_server()
        connection.wait_for("connected again")
        rows = connection.errors.splitlines()
    assert all(re.match(r"<[3-7]>[^<]", row) and "qosctl:" not in row for row in rows)
    (lost,) = [row for row in rows if row.endswith(": connecting again")]
    (again,) = [row for row in rows if "connected again over DTLS" in row]
    assert (lost[:3], again[:3], rows[0][:3]) == ("<4>", "<5>", "<6>")


def test_a_refusal_is_an_error_to_the_journal(line: Line) -> None:
    said = line.client.run([*_TO_THE_JOURNAL, *_words(line, "--numbering", "plain", "-i", "a/b")], check=False)
    assert said.returncode == 1
    assert said.stderr.startswith("<3>connect: 'a/b' is not a device name")


def test_quiet_is_without_a_word_as_long_as_all_is_well(line: Line) -> None:
    process = line.client.popen([str(COMMAND), *_words(line, "--quiet")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while line.qosctl("flows", check=False).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0


def test_debug_shows_what_each_packet_is_and_never_what_it_says(line: Line, inside: Inside) -> None:
    with line.connected(4, "--debug") as connection:
        inside.send(SECRET, EF_BYTE)
        inside.answer(SECRET, 2)
        assert inside.answered(1) == [SECRET]
        inside.send(SECRET, version=6)
        assert inside.arrived(1) == [SECRET]
        connection.wait_for("IPv6 UDP", 5)
        said = connection.errors
    size = 28 + len(SECRET)
    assert re.search(rf"^qosctl: out IPv4 UDP EF NOT_ECT {size} bytes, record 1\.\d+, mark EF$", said, re.MULTILINE)
    assert re.search(rf"^qosctl: in  IPv4 UDP DF ECT_0 {size} bytes, record 1\.\d+$", said, re.MULTILINE)
    assert re.search(rf"^qosctl: out IPv6 UDP DF NOT_ECT {size + 20} bytes, record 1\.\d+, mark DF$", said, re.MULTILINE)
    shown = said.encode()
    password = line.server.users["alice"].encode()
    for secret in (SECRET, SECRET.hex().encode(), password, b"webvpn"):
        assert secret not in shown


def test_without_debug_no_packet_is_shown(line: Line, inside: Inside) -> None:
    with line.connected(4, "--verbose") as connection:
        assert inside.works_both_ways(b"a packet")
        said = connection.errors
    assert said.startswith("qosctl: session with 10.91.2.2: TLSv1.3 ")
    assert said.count("\n") == 1
