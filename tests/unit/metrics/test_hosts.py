"""Which Host headers are ours: none that a web page's own name could be (finding 20, DNS rebinding)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import UsageError
from qosctl.metrics.hosts import is_addressed_to, parse_names

NAMES = parse_names(["node1.example", "Prom.Example."])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:24740", "192.0.2.9:24740", "[::1]", "[::1]:24740", "[fe80::1%eth0]:1", "localhost",
        "LOCALHOST:24740", "localhost.:24740", "node1.example", "NODE1.example.:9", "prom.example",
    ],
)  # fmt: skip
def test_addresses_localhost_and_configured_names_are_ours(host: str) -> None:
    assert is_addressed_to(host, NAMES)


@pytest.mark.audit
@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "node1.example.evil.example", "localhost:1:2",
        "x@localhost", "localhost, evil.example", "evil.example, localhost", "evil.example#localhost", "", " ", ":24740",
        "[::1].evil.example", "[localhost]", "[127.0.0.1]", "::1", "[::1", "0x7f.1", "127.1", "2130706433", "локалхост",
        "localhost\0", "localhost/", "node1", "example",
    ],
)  # fmt: skip
def test_no_other_name_is_ours(host: str) -> None:
    assert not is_addressed_to(host, NAMES)


@given(st.text() | st.text(alphabet="0123456789.:[]localhst-"))
def test_any_header_has_an_answer(host: str) -> None:
    assert is_addressed_to(host, NAMES) in {True, False}


@pytest.mark.parametrize(
    "word",
    ["", ".", "a b", "a:1", "http://a", "a/b", "*", "*.example", "-a", "ä.example", "a..b", "x" * 64, "a." * 127 + "ab"],
)
def test_what_is_no_name_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is no host name"):
        parse_names([word])
