"""The compiler that builds the program rejects a traffic class where a DSCP is meant, and the other way round."""

from __future__ import annotations

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import create_state, folder

from tests.lab import Namespace
from tests.lab.program import changed_sources

RIGHT = "struct traffic_class c = {0xb9}; struct dscp d = dscp_of(c); c = with_dscp(c, d); return c.byte;"
WRONG = {
    "the byte as a DSCP": "struct traffic_class c = {0xb8}; struct dscp d = c; return d.value;",
    "a DSCP as the byte": "struct dscp d = {46}; struct traffic_class c = d; return c.byte;",
    "a number as a DSCP": "struct traffic_class c = {0}; return with_dscp(c, 46).byte;",
    "a DSCP of a DSCP": "struct dscp d = {46}; return dscp_of(d).value;",
    "a DSCP as a number": "struct dscp d = {46}; return d << 2;",
    "stamping the byte": "struct traffic_class c = {0xb8}; return stamp_ipv4(skb, 14, c);",
    "stamping a number": "return stamp_ipv6(skb, 14, 46);",
}


def builds(use: str) -> None:
    with Namespace("types") as namespace, namespace.entered():
        bpffs.ROOT.mkdir(exist_ok=True)
        create_state()
        pins_of(1).create("lo")
        try:
            with changed_sources(after=f"static __always_inline int use(struct __sk_buff *skb) {{ {use} }}") as sources:
                BccLoader(sources).load(folder(), pins_of(1).path, ethernet=True)
        finally:
            bpffs.remove_tree(folder())


def test_right_uses_compile() -> None:
    builds(RIGHT)


@pytest.mark.parametrize("use", WRONG.values(), ids=WRONG.keys())
def test_wrong_uses_do_not(use: str) -> None:
    with pytest.raises(RefusedError, match="compile"):
        builds(use)
