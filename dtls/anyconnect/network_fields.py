"""The routes and the DNS that the answer to CONNECT asks for. No I/O.

A default route for each family is what a server means that names no network of that family (split-include) at all.
"""

from __future__ import annotations

import re

from qosctl.dtls.vpn.host_routes import Network, banner, domains, networks, servers
from qosctl.dtls.vpn.http import Response

DECIMAL = re.compile(r"[0-9]{1,9}\Z")


def parse_network(response: Response) -> Network:
    """Read routes and DNS settings from the answer to CONNECT. Never raises."""
    includes, excludes = _both(response, "x-cstp-split-include"), _both(response, "x-cstp-split-exclude")
    include, exclude = networks(includes, default=True), networks(excludes)
    dns = servers(_both(response, "x-cstp-dns"))
    nbns = servers(response.all("x-cstp-nbns"))
    default_domain = domains((response.first("x-cstp-default-domain") or "").split(" "))
    split_dns = domains(name for line in response.all("x-cstp-split-dns") for name in re.split(r"[ ,]+", line))
    return Network(
        include=include,
        exclude=exclude,
        splits=frozenset(6 if ":" in text else 4 for text in includes),
        dns=dns,
        nbns=nbns,
        domain=" ".join(default_domain),
        split_dns=split_dns,
        idle_s=seconds(response, "x-cstp-idle-timeout"),
        banner=banner(response.first("x-cstp-banner") or ""),
        discarded=len(includes) + len(excludes) - len(include) - len(exclude),
    )


def seconds(response: Response, name: str) -> int:
    """Return a time that some servers write as a word where there is none. Never raises."""
    text = response.first(name) or ""
    return int(text) if DECIMAL.match(text) else 0


def _both(response: Response, name: str) -> list[str]:
    return [value.strip() for value in (*response.all(name), *response.all(f"{name}-ip6"))]
