"""A client of ours on a thread of its own in a namespace, so that tests can talk through its tunnel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from qosctl.bpf.errors import QosctlError
from qosctl.dtls.client import connect
from qosctl.dtls.events import Say
from qosctl.dtls.options import ConnectedInfo, ConnectOptions
from qosctl.dtls.session.factories import PLAIN, Factories
from qosctl.dtls.session.marker import Marker
from qosctl.dtls.session.session_stats import Statistics
from qosctl.dtls.transport.stop import Stop

from tests.lab import Namespace

PATIENCE_S = 30


class Tunnel:
    """`with Tunnel(namespace, options) as tunnel:` is connected inside the block, and raises what `connect` raised."""

    def __init__(
        self,
        namespace: Namespace,
        options: ConnectOptions,
        *,
        marker: Marker | None = None,
        on_event: Say = lambda _severity, _line: None,
        factories: Factories = PLAIN,
    ) -> None:
        self._namespace = namespace
        self._options = options
        self._marker = marker
        self._on_event = on_event
        self._factories = factories
        self._stop = Stop()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self._info: ConnectedInfo | None = None
        self.error: Exception | None = None
        self.final: Statistics | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._connected.wait(PATIENCE_S)
        if self._info is None:
            self.end()
            raise self.error or TimeoutError("the client neither connected nor failed")
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def info(self) -> ConnectedInfo:
        assert self._info is not None
        return self._info

    @property
    def address4(self) -> str:
        return next(str(address.ip) for address in self.info.addresses if address.version == 4)

    @property
    def address6(self) -> str:
        return next(str(address.ip) for address in self.info.addresses if address.version == 6)

    def end(self) -> None:
        """Ask the client to stop, and wait for it."""
        if self._thread.is_alive():
            self._stop.request()
        self.join()

    def join(self) -> None:
        """Wait for the client to end by itself."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the client hangs"

    def wait_for(self, condition: Callable[[Statistics], bool]) -> Statistics:
        """Wait until the client's counts are as wanted; AssertionError when they are not after long enough."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(statistics := self.info.statistics()):
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < deadline, statistics
            time.sleep(0.02)
        return statistics

    def _run(self) -> None:
        try:
            with self._namespace.entered():
                self.final = connect(
                    self._options,
                    self._stop,
                    marker=self._marker,
                    on_connected=self._note,
                    on_event=self._on_event,
                    factories=self._factories,
                )
        except QosctlError as error:
            self.error = error
        finally:
            self._connected.set()

    def _note(self, info: ConnectedInfo) -> None:
        self._info = info
        self._connected.set()
