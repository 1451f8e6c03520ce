"""Routes and DNS: what a server may ask for, and what is left out."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.anyconnect.network_fields import parse_network
from qosctl.dtls.vpn.host_routes import DOMAINS_MAX, NETWORKS_MAX, SERVERS_MAX, Network, banner, networks, spare
from qosctl.dtls.vpn.http import Response

GIVEN = (
    ("X-CSTP-DNS", "192.168.77.53"),
    ("X-CSTP-DNS", "fd77::53"),
    ("X-CSTP-NBNS", "192.168.77.54"),
    ("X-CSTP-Default-Domain", "example.test"),
    ("X-CSTP-Split-DNS", "corp.test"),
    ("X-CSTP-Split-DNS", "two.test"),
    ("X-CSTP-Split-Include", "10.20.0.0/255.255.0.0"),
    ("X-CSTP-Split-Include", "10.30.1.7/24"),
    ("X-CSTP-Split-Include-IP6", "fd20::/48"),
    ("X-CSTP-Split-Exclude", "10.20.5.0/255.255.255.0"),
    ("X-CSTP-Split-Exclude-IP6", "fd20:0:0:5::/64"),
    ("X-CSTP-Idle-Timeout", "1200"),
    ("X-CSTP-Banner", "Welcome"),
)
SERVER = ip_address("192.0.2.1")


def parse(*fields: tuple[str, str]) -> Network:
    return parse_network(Response(200, "CONNECTED", tuple((name.lower(), value) for name, value in fields), b""))


def test_all_that_a_server_gives() -> None:
    assert parse(*GIVEN) == Network(
        include=(ip_network("10.20.0.0/16"), ip_network("10.30.1.0/24"), ip_network("fd20::/48")),
        exclude=(ip_network("10.20.5.0/24"), ip_network("fd20:0:0:5::/64")),
        splits=frozenset({4, 6}),
        dns=(ip_address("192.168.77.53"), ip_address("fd77::53")),
        nbns=(ip_address("192.168.77.54"),),
        domain="example.test",
        split_dns=("corp.test", "two.test"),
        idle_s=1200,
        banner="Welcome",
    )


def test_nothing_given() -> None:
    assert parse() == Network()
    assert parse(("X-CSTP-Idle-Timeout", "none")) == Network()


LEFT_OUT = (
    "127.0.0.0/8", "127.0.0.53/32", "0.0.0.0/32", "169.254.0.0/16", "169.254.169.254/32", "224.0.0.0/4", "239.1.2.3/32",
    "255.255.255.255/32", "::1/128", "::/128", "fe80::/10", "fe80::1/128", "ff02::1/128", "::ffff:127.0.0.1/128",
    "fe80::%eth0/64", "10.0.0.0/255.0.255.0", "10.0.0.0/33", "10.0.0", "10.0.0.0/8; reboot", "$(reboot)", "", "/", "/8",
    "10.0.0.0/8 10.1.0.0/16", "10.0.0.0/-1", "default", "\u0661\u0660.0.0.0/8", "1" * 5000, "10.0.0.0/" + "0" * 4000,
)  # fmt: skip


@pytest.mark.parametrize("text", LEFT_OUT, ids=lambda text: text[:24])
def test_routes_that_no_vpn_may_set(text: str) -> None:
    found = parse(("X-CSTP-Split-Include", text), ("X-CSTP-Split-Exclude", text))
    assert (found.include, found.exclude, found.discarded) == ((), (), 2)
    assert found.splits  # so that no default route takes their place


@pytest.mark.parametrize("text", ["0.0.0.0/0.0.0.0", "0.0.0.0/0", "::/0"])
def test_all_of_a_family_may_be_included_and_not_excluded(text: str) -> None:
    found = parse(("X-CSTP-Split-Include", text), ("X-CSTP-Split-Exclude", text))
    assert (found.include, found.exclude) == ((ip_network(text),), ())


@pytest.mark.parametrize("text", ["0.0.0.0/1", "128.0.0.0/1", "192.0.0.0/4", "2000::/3", "192.0.2.0/24"])
def test_networks_that_only_contain_what_is_not_theirs(text: str) -> None:
    assert parse(("X-CSTP-Split-Include", text)).include == (ip_network(text),)


def test_no_route_to_the_server_itself() -> None:
    nets = networks(["192.0.2.0/24", "192.0.2.1/32", "192.0.2.1/255.255.255.255", "192.0.2.2/32"])
    assert spare(nets, SERVER) == (ip_network("192.0.2.0/24"), ip_network("192.0.2.2/32"))


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.251", "fe80::1", "fd77::53%eth0", "dns.test", ""])
def test_name_servers_that_are_none(text: str) -> None:
    assert parse(("X-CSTP-DNS", text), ("X-CSTP-NBNS", text)) == Network()


def test_name_servers_are_few_and_each_once() -> None:
    given_all = [("X-CSTP-DNS", f"10.0.0.{n // 2}") for n in range(20)]
    assert parse(*given_all).dns == tuple(ip_address(f"10.0.0.{n}") for n in range(SERVERS_MAX))


DOMAINS = {
    "example.test": "example.test",
    "example.test.": "example.test",
    "a.test b.test": "a.test b.test",
    "_msdcs.corp.test": "_msdcs.corp.test",
    "xn--bcher-kva.test": "xn--bcher-kva.test",
    "$(reboot)": "",
    "`reboot`": "",
    "a;reboot": "",
    "a.test'\"": "",
    "-oProxyCommand": "",
    "a..test": "",
    "bücher.test": "",
    "a.test\tb": "",
    "x" * 64: "",
    ".".join(["x" * 60] * 5): "",
    "": "",
}


@pytest.mark.parametrize(("text", "domain"), DOMAINS.items(), ids=lambda text: text[:20] or "empty")
def test_domains(text: str, domain: str) -> None:
    assert parse(("X-CSTP-Default-Domain", text)).domain == domain
    assert parse(("X-CSTP-Split-DNS", text)).split_dns == tuple(domain.split())


def test_everything_is_bounded() -> None:
    many = [("X-CSTP-Split-Include", f"10.{n // 256}.{n % 256}.0/24") for n in range(4 * NETWORKS_MAX)]
    names = [("X-CSTP-Split-DNS", f"{n}.test") for n in range(4 * DOMAINS_MAX)]
    found = parse(*many, *names, ("X-CSTP-Idle-Timeout", "9" * 4000), ("X-CSTP-Banner", "x" * 8000))
    assert (len(found.include), len(found.split_dns), found.discarded) == (NETWORKS_MAX, DOMAINS_MAX, 3 * NETWORKS_MAX)
    assert found.idle_s == 0
    assert len(found.banner) < 300


def test_a_banner_that_would_speak_to_the_terminal() -> None:
    assert banner("Hello\\033[2J\x1b[2J\n`x` $(y)") == "Hello/033[2J [2J `x` $(y)"


_FIELDS = st.sampled_from(sorted({name for name, _ in GIVEN}))
_VALUES = (
    st.text(max_size=60) | st.from_regex(r"[0-9a-f:.]{1,20}(/[0-9.]{0,12})?", fullmatch=True) | st.ip_addresses().map(str)
)


@given(st.lists(st.tuples(_FIELDS, _VALUES), max_size=30))
def test_whatever_comes_the_networks_are_routable(fields: list[tuple[str, str]]) -> None:
    found = parse(*fields)
    for net in (*found.include, *found.exclude):
        first = net.network_address
        if net.prefixlen:
            assert not (net.is_loopback or net.is_multicast or net.is_link_local)
            assert net.prefixlen < 8 or not first.is_unspecified
    for address in (*found.dns, *found.nbns):
        assert not (address.is_loopback or address.is_multicast or address.is_link_local or address.is_unspecified)
    assert all(c.isalnum() or c in "._- " for c in found.domain + "".join(found.split_dns))
    assert found.domain.isascii()
