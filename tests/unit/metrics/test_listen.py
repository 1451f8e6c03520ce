"""--listen: what is understood, what is refused, and that nothing else can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import UsageError
from qosctl.metrics.listen import DEFAULT, Listen, parse_listen


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("24740", "127.0.0.1", 24740),
        ("0", "127.0.0.1", 0),
        ("65535", "127.0.0.1", 65535),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("0.0.0.0:1", "0.0.0.0", 1),
        ("[::1]:24740", "::1", 24740),
        ("[2001:DB8:0::1]:24740", "2001:db8::1", 24740),
        ("[fe80::1%eth0]:24740", "fe80::1%eth0", 24740),
        ("[::ffff:192.0.2.1]:1", "::ffff:c000:201", 1),
    ],
)
def test_addresses_and_ports_are_understood(text: str, address: str, port: int) -> None:
    assert parse_listen(text) == Listen(address, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "127.0.0.1", "127.0.0.1:", ":24740", "::1", "::1:24740", "[::1]", "[::1]:", "[127.0.0.1]:1", "[]:1",
        "localhost:24740", "example.com:24740", "*:24740", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1", "1:2:3",
        "127.0.0.1:1_0", "127.0.0.1: 1", "127.0.0.1:٣", "127.0.0.1:²", "010.0.0.1:1", "256.0.0.1:1", "1" * 5000,
        "http://127.0.0.1:24740", "127.0.0.1:24740/metrics", "[::1]x:1", "[::1:1", "unix:/run/x",
    ],
)  # fmt: skip
def test_anything_else_is_one_usage_error_with_a_way_out(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert "--listen" in caught.value.hint
    assert "\n" not in str(caught.value)


@given(st.text() | st.text(alphabet="0123456789abcdef.:[]% "))
def test_no_text_brings_anything_but_an_address_or_a_usage_error(text: str) -> None:
    try:
        listen = parse_listen(text)
    except UsageError:
        return
    assert parse_listen(str(listen)) == listen


def test_the_default_is_this_machine_alone() -> None:
    assert parse_listen(str(DEFAULT)) == DEFAULT
    assert DEFAULT.address == "127.0.0.1"
    assert not 9100 <= DEFAULT.port <= 9999  # given away, all of it
    assert DEFAULT.port < 32768  # Linux hands out the ports above to clients
