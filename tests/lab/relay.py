"""A bad network on purpose: a relay between a client and its server that loses, damages and delays by a seed.

    client ---- relay (in a namespace between them) ---- server

It passes TCP on and does to UDP what `relay_program.Weather` says; the same seed and the same datagrams give the same fate.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.lab.namespace import LabError, Namespace, end

_PROGRAM = Path(__file__).with_name("relay_program.py")


class Relay:
    """Listens at `address` port `port` in `namespace`, and speaks to `target`. Fair weather at first."""

    def __init__(self, namespace: Namespace, address: str, port: int, target: str, *, seed: int) -> None:
        self._namespace = namespace
        self._words = [address, str(port), target, str(port), str(seed)]
        self._rebinds = 0

    def __enter__(self) -> Self:
        self._process = self._namespace.popen(
            [sys.executable, "-I", str(_PROGRAM), *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def set(self, **weather: float | int | str | bool) -> None:
        """Change the weather: fields of relay_program.Weather. It holds when this returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(weather) + "\n")
        self._process.stdin.flush()
        self._wait()

    def rebind(self) -> None:
        """Speak to the server from another port from now on, as a NAT that has forgotten the flow does."""
        self._rebinds += 1
        self.set(rebind=self._rebinds)

    def _wait(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        if self._process.stdout.readline() != "ok\n":
            raise LabError(f"the relay ended: {self._process.stderr.read()}")
