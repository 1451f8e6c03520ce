"""A client that was taken over writes whatever it likes into its page: no new device, and no end of series (finding 20)."""

from __future__ import annotations

import random

import pytest
from qosctl.bpf.flow_page.page import page_words, write_suite
from qosctl.dtls.record.handshake import SUITES

from tests.lab import Namespace
from tests.lab.exporter import Exporter
from tests.metrics.marked import flow

pytestmark = pytest.mark.audit


def test_labels_are_few_whatever_a_client_says(with_maps: Namespace, exporter: Exporter) -> None:
    seen: dict[str, set[str]] = {}
    with flow(with_maps, 1001, "tun7") as ring:
        words = page_words(ring.page.cast("B"))
        for seed in range(8):
            raw = random.Random(seed)
            for at in range(len(words)):
                words[at] = raw.getrandbits(64)
            write_suite(words, f"CIPHER-{seed}")
            for sample, labels in exporter.scrape():
                for label, value in labels if sample.startswith("qosctl_tunnel") else ():
                    seen.setdefault(label, set()).add(value)
    assert seen["device"] == {"tun7"}
    assert seen["cipher"] == {"other"}
    assert seen["state"] <= {"dtls", "tls", "reconnecting", "unknown"}
    assert sum(map(len, seen.values())) < 100


def test_ciphers_that_there_are_go_by_name(with_maps: Namespace, exporter: Exporter) -> None:
    with flow(with_maps, 1001, "tun7") as ring:
        for suite in (*SUITES.decode().split(":"), "TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-GCM-SHA256"):
            write_suite(page_words(ring.page.cast("B")), suite)
            assert exporter.scrape().labelled("qosctl_tunnel_info", "cipher") == {suite: 1}
