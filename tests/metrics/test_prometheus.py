"""Prometheus itself: its linter has nothing to say, and its server takes everything in."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from qosctl.bpf.abi import RING_WORDS, mark_word
from qosctl.bpf.dscp import EF
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued, backlog_word, write_classes
from qosctl.bpf.flow_page.page import statistics_in
from qosctl.bpf.flow_page.statistics import Statistic

from tests.lab import LabError, Namespace, Qosctl, end
from tests.lab.exporter import PATIENCE, Answer, Exporter
from tests.metrics.marked import NUMBER, RECORD, flow, sender

PORT = 9090
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: qosctl
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """A real Prometheus in a namespace, with a folder of its own."""

    def __init__(self, namespace: Namespace, folder: Path, target: str) -> None:
        self._namespace = namespace
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(target=target))
        self._argv = [
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=error",
        ]  # fmt: skip

    def __enter__(self) -> Prometheus:
        self._process = self._namespace.popen(self._argv)
        if not self._namespace.wait_for_listener(PORT, self._process, PATIENCE):
            end(self._process)
            raise LabError(f"prometheus did not start: {self._process.returncode}")
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def ask(self, path: str) -> Any:
        argv = ["curl", "--silent", "--show-error", "--fail", f"http://127.0.0.1:{PORT}/api/v1/{path}"]
        return json.loads(self._namespace.run(argv, timeout=PATIENCE).stdout)["data"]

    def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """Values by labels, those aside that Prometheus itself adds."""
        return {
            frozenset((k, v) for k, v in one["metric"].items() if k not in ("instance", "job")): float(one["value"][1])
            for one in self.ask(f"query?query={quote(expression)}")["result"]
        }

    def wait_for_scrape(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.query("up").get(frozenset({("__name__", "up")})) != 1:
            if time.monotonic() > deadline:
                raise LabError(f"no scrape: {self.ask('targets')}")
            time.sleep(0.1)


@pytest.fixture
def busy(bare: Namespace, exporter: Exporter) -> Iterator[Exporter]:
    """The exporter while every metric has samples."""
    qosctl = Qosctl(bare)
    qosctl.attach("eth0")
    qosctl("passtos", "on")
    with sender(bare) as sock, flow(bare, sock.getsockname()[1]) as ring:
        for statistic in Statistic:
            statistics_in(ring.page)[statistic] = 1 + statistic
        write_classes(ring.page, {EF: ClassUse(1, 2, 3, 4, backlog_word(Queued(5, 6000)))})
        ring.marks[NUMBER % RING_WORDS] = mark_word(NUMBER, EF)
        sock.send(RECORD)
        yield exporter


@pytest.mark.parametrize("more", [[], ["--extended"]], ids=["plain", "extended"])
@pytest.mark.parametrize("state", ["busy", "idle"])
def test_promtool_finds_nothing_to_mend(request: pytest.FixtureRequest, more: list[str], state: str) -> None:
    exporter: Exporter = request.getfixturevalue("busy" if state == "busy" else "exporter")
    text = exporter.get()[1]
    done = subprocess.run(
        ["promtool", "check", "metrics", *more], input=text, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == bool(more)  # --extended prints how many series each metric has


def test_a_real_prometheus_takes_in_every_metric(busy: Exporter, tmp_path: Path) -> None:
    host, port = busy.address
    with Prometheus(busy.namespace, tmp_path, f"{host}:{port}") as prometheus:
        prometheus.wait_for_scrape()
        answer = busy.scrape()
        ours = {sample.name for family in answer.families.values() for sample in family.samples}
        assert {
            name for name in prometheus.ask("label/__name__/values") if name.startswith(("qosctl_", "process_"))
        } == ours
        # Which of the two names a family goes by depends on the format that this Prometheus asks for.
        (metadata,) = {name.removesuffix("_total"): said for name, said in prometheus.ask("metadata").items()}[
            "qosctl_packets"
        ]
        assert metadata["type"] == "counter"
        assert metadata["help"].startswith("Packets seen at the device's egress")
        assert prometheus.query('qosctl_packets_total{outcome="stamped"}').popitem()[1] == stamped(answer)
        assert prometheus.query("qosctl_passtos_enabled").popitem()[1] == 1
        series = sum(len(family.samples) for family in answer.families.values())
        assert prometheus.query("scrape_samples_scraped").popitem()[1] == series


def stamped(answer: Answer) -> float:
    return answer("qosctl_packets_total", device="eth0", outcome="stamped")
