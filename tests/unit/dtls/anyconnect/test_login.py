"""Logging in, without a network: which requests follow which answers."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.errors import RefusedError, UsageError
from qosctl.bpf.printable import short_line
from qosctl.dtls.anyconnect.login import SESSION_COOKIE, Login
from qosctl.dtls.transport.certificate_check import Pin
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.vpn.errors import LoginError
from qosctl.dtls.vpn.http import Response
from qosctl.dtls.vpn.server_url import Gateway

GATEWAY = Gateway.parse("https://vpn.example:4443")
PASSWORD = "p<&>]]ä"


def form(message: str, fields: str = '<input type="password" name="password" label="Password:" />') -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<config-auth client="vpn" type="auth-request"><auth id="main">'
        f'<message>{message}</message><form method="post" action="/auth">{fields}</form></auth></config-auth>'
    ).encode()


def answer(body: bytes = b"", status: int = 200, **cookies: str) -> Response:
    fields = tuple(("set-cookie", f"{name}={value}; Secure; HttpOnly") for name, value in cookies.items())
    return Response(status, "Words", fields, body)


def login() -> tuple[Login, list[str]]:
    asked: list[str] = []

    def password() -> str:
        asked.append("password")
        return PASSWORD

    return Login(GATEWAY, PasswordLogin("al<ice", password)), asked


def test_user_name_then_password_then_cookie() -> None:
    machine, asked = login()
    first = machine.first_request()
    assert first.startswith(b"POST / HTTP/1.1\r\nHost: vpn.example:4443\r\nUser-Agent: Open AnyConnect VPN Agent v9")
    assert b"<username>al&lt;ice</username>" in first
    assert not asked
    second = machine.answer(answer(form("Please enter your password."), webvpncontext="ctx"))
    assert asked == ["password"]
    assert second is not None
    assert second.startswith(b"POST /auth HTTP/1.1\r\n")
    assert b"Cookie: webvpncontext=ctx\r\n" in second
    assert "<password>p&lt;&amp;&gt;]]ä</password>".encode() in second
    assert machine.answer(answer(webvpncontext="ctx", webvpn="c29tZQ==")) is None
    assert machine.cookie == "c29tZQ=="


def test_the_path_of_the_url_is_where_the_login_begins() -> None:
    machine = Login(Gateway.parse("vpn.example/group?x=1"), PasswordLogin("a", str))
    assert machine.first_request().startswith(b"POST /group?x=1 HTTP/1.1\r\nHost: vpn.example\r\n")


@pytest.mark.parametrize(
    "second",
    [
        answer(form("Login failed.\nPlease enter your password.")),
        answer(status=401),
        answer(status=403),
        answer(form("")),
        answer(form("Failed."), webvpn=""),
    ],
)
def test_a_wrong_password_is_refused_and_sent_only_once(second: Response) -> None:
    machine, asked = login()
    machine.first_request()
    machine.answer(answer(form("Please enter your password.")))
    with pytest.raises(LoginError, match=r"^al<ice: wrong password$"):
        machine.answer(second)
    assert asked == ["password"]


def test_a_second_factor_is_named_and_the_way_around_it_shown() -> None:
    machine, _ = login()
    machine.first_request()
    machine.answer(answer(form("Please enter your password.")))
    with pytest.raises(LoginError, match=r"more than a password: Enter the code.*openconnect --authenticate"):
        machine.answer(answer(form("Enter the code\n from your &lt;phone&gt;")))


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (answer(form("Choose", '<input type="text" name="username" />')), "other than a password"),
        (answer(b"<html>hello</html>"), "other than a password"),
        (answer(status=302), "302 Words"),
    ],
)
def test_another_kind_of_server_never_sees_the_password(response: Response, message: str) -> None:
    machine, asked = login()
    machine.first_request()
    with pytest.raises(RefusedError, match=message):  # which is a verdict on the server, where it speaks another language
        machine.answer(response)
    assert not asked


@given(st.binary(max_size=2000), st.integers(100, 599))
def test_any_answer_gives_a_request_a_cookie_or_the_one_error(body: bytes, status: int) -> None:
    machine, _ = login()
    machine.first_request()
    try:
        while machine.answer(Response(status, "x", (), body)) is not None:
            pass
    except RefusedError as error:
        assert PASSWORD not in str(error)


@given(st.text())
def test_words_of_a_server_are_one_printable_line(text: str) -> None:
    assert all(character.isprintable() for character in short_line(text))


def test_secrets_do_not_show_in_a_repr() -> None:
    assert "hunter2" not in repr(CookieLogin("hunter2"))
    assert "hunter2" not in repr(PasswordLogin("alice", lambda: "hunter2"))


@pytest.mark.parametrize("text", ["", "a b", "a;b", 'a"b', "a\r\nX: y", "ä", "x" * 5000])
def test_what_cannot_be_a_cookie_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        CookieLogin.parse(text, SESSION_COOKIE)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["AB+/==", " webvpn=AB+/==\n", "openconnect_strapkey=MHc=; webvpn=AB+/==", "webvpn=AB+/==;x=y"]
)
def test_a_cookie_may_carry_its_name_and_have_company(text: str) -> None:
    assert CookieLogin.parse(text, SESSION_COOKIE) == CookieLogin("AB+/==")


URLS = {
    "https://vpn.example": ("vpn.example", 443, "/", "vpn.example"),
    "vpn.example:4443": ("vpn.example", 4443, "/", "vpn.example:4443"),
    "https://192.0.2.1:1/x": ("192.0.2.1", 1, "/x", "192.0.2.1:1"),
    "https://[2001:db8::1]": ("2001:db8::1", 443, "/", "[2001:db8::1]"),
    "https://[fe80::1%25eth0]:8443/?a": ("fe80::1%25eth0", 8443, "/?a", "[fe80::1%25eth0]:8443"),
    "https://bücher.example": ("xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
    "https://BÜCHER.Example:444": ("xn--bcher-kva.example", 444, "/", "xn--bcher-kva.example:444"),
    "https://例え。テスト": ("xn--r8jz45g.xn--zckzah", 443, "/", "xn--r8jz45g.xn--zckzah"),
}


@pytest.mark.parametrize(("url", "expected"), URLS.items())
def test_urls(url: str, expected: tuple[str, int, str, str]) -> None:
    gateway = Gateway.parse(url)
    assert (gateway.host, gateway.port, gateway.path, gateway.authority) == expected


@pytest.mark.audit
@pytest.mark.parametrize(
    ("name", "looked_up"),
    [("faß.test", "xn--fa-hia.test"), ("βόλος.test", "xn--nxasmm1c.test"), ("faß.test.", "xn--fa-hia.test.")],
)
def test_a_name_is_not_turned_into_another_owners(name: str, looked_up: str) -> None:
    """Finding 20: by IDNA 2003 these are fass.test and βόλοσ.test, whose owners have valid certificates for them."""
    assert Gateway.parse(f"https://{name}").host == looked_up


@pytest.mark.parametrize("name", ["☕.example", "a\u200db.example", "a..ß", "ß" * 64, "-ß.example", "ä_b.example"])
def test_a_name_that_idna_2008_does_not_know_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gateway.parse(f"https://{name}")
    assert "not a URL: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "https://", "http://a", "https://a:0", "https://a:99999", "https://a b", "https://u:p@a", "https://a/ä"]
)
def test_what_is_no_url_of_a_server(url: str) -> None:
    with pytest.raises(UsageError):
        Gateway.parse(url)


@pytest.mark.parametrize("url", ["https://u:hunter2@a", "http://u:hunter2@a", "u:hunter2@a:99999", "https://u:hunter2@ a"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gateway.parse(url)
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_gateway_or_a_usage_error(text: str) -> None:
    try:
        gateway = Gateway.parse(text)
    except UsageError:
        return
    assert gateway.host.isascii()
    assert gateway.authority.isprintable()


@given(st.binary(min_size=32, max_size=32))
def test_a_pin_reads_what_it_writes(digest: bytes) -> None:
    assert Pin.parse(str(Pin(digest))) == Pin(digest)


@given(st.text() | st.text().map("pin-sha256:".__add__))
def test_any_text_is_a_pin_or_a_usage_error(text: str) -> None:
    try:
        assert len(Pin.parse(text).digest) == 32
    except RefusedError:
        pytest.fail("not the server's fault")
    except UsageError:
        pass


def test_a_server_that_takes_no_logins_now_is_no_verdict_on_the_user() -> None:
    machine, asked = login()
    machine.first_request()
    with pytest.raises(RefusedError, match="503 Words") as caught:
        machine.answer(answer(status=503))
    assert not isinstance(caught.value, LoginError)
    assert not asked


def test_what_was_typed_in_another_encoding_leaves_as_it_was_typed() -> None:
    machine = Login(Gateway.parse("https://vpn.example"), PasswordLogin(os.fsdecode(b"al\xffice"), str))
    assert b"<username>al\xffice</username>" in machine.first_request()
