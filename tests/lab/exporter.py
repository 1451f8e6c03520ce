"""The installed `qosctl metrics` in a namespace, scraped as Prometheus would, and its answer taken apart."""

from __future__ import annotations

import http.client
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Self
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.lab import LabError, Namespace, end
from tests.lab.qosctl import COMMAND

PATIENCE = 60  # seconds; only a hang takes that long


class Answer:
    """One scrape: samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples[name, frozenset(labels.items())]

    def labelled(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples of `name` that have `labels`, by the value of `label`."""
        wanted = labels.items()
        return {
            dict(has)[label]: value
            for (sample, has), value in self._samples.items()
            if sample == name and wanted <= dict(has).items()
        }

    def __iter__(self) -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
        """Yield each sample's name and labels."""
        return iter(self._samples)

    def __contains__(self, sample: tuple[str, frozenset[tuple[str, str]]]) -> bool:
        return sample in self._samples

    @property
    def readable(self) -> Mapping[str, float]:
        return self.labelled("qosctl_part_readable", "part")


class Exporter:
    """`qosctl metrics` inside `namespace`; in the block it serves at `url`."""

    def __init__(self, namespace: Namespace, listen: str = "127.0.0.1:0", *, more: Sequence[str] = ()) -> None:
        self.namespace = namespace
        self._words = ["--listen", listen, *more]

    def __enter__(self) -> Self:
        argv = [str(COMMAND), "metrics", *self._words]
        self.process = self.namespace.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            assert self.process.stderr is not None
            raise LabError(f"qosctl metrics: {self.process.stderr.read()}")
        self.url = self.first_line.split()[-1]
        address = urlsplit(self.url)
        assert address.hostname is not None
        assert address.port is not None
        self.address = (address.hostname, address.port)
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def get(self, path: str = "/metrics", method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            with self.namespace.entered():
                connection.connect()
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def scrape(self) -> Answer:
        status, text = self.get()
        assert status == 200
        return Answer(text)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status, and what it said on stderr."""
        self.process.send_signal(sign)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors
