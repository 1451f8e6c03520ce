"""One topology, one server, one client: what the system tests share."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.lab import Connection, Ocserv, Qosctl, Topology
from tests.lab.openconnect import cookie_of

TUNNEL = "vpn0"
_KEY_LOG = "SSLKEYLOGFILE"  # GnuTLS writes the secrets of every session there, DTLS included


class Line:
    """Client, router and server with ocserv on it, and `qosctl` in the client's namespace.

    `more` is further configuration of ocserv. Its session secrets are logged to `key_log`.
    """

    def __init__(self, more: str = "") -> None:
        self.topology = Topology()
        self.client, self.router = self.topology.client, self.topology.router
        self.server_namespace = self.topology.server
        self.device = self.topology.client_if
        self.qosctl = Qosctl(self.client)
        names = [self.topology.server4, self.topology.server6]
        self.server = Ocserv(self.server_namespace, names, more=more)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qosctl-keys-"))
            Path(folder).chmod(0o711)
            self.key_log = Path(folder, "keys")
            self.key_log.touch()
            self.key_log.chmod(0o622)  # the server's workers have given root up when they write
            stack.enter_context(self.topology)
            with _environment(_KEY_LOG, str(self.key_log)):
                stack.enter_context(self.server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart_server(self) -> None:
        """Bring the server up again; all sessions are lost."""
        with _environment(_KEY_LOG, str(self.key_log)):
            self.server.restart()

    def words(self, *more: str) -> list[str]:
        """Return the command line of a connect over IPv4, through the device TUNNEL; `more` says who sets routes."""
        url = f"https://{self.topology.server4}:{self.server.port}"
        login = ["-u", "alice", "--password-file", str(self.server.password_file("alice"))]
        return ["connect", url, *login, "--servercert", self.server.pin, "-i", TUNNEL, *more]

    def cookie_file(self, folder: Path, server: Ocserv | None = None) -> Path:
        """Log in at the server, or at another one at its address, and return a new file (mode 0600) with the cookie."""
        path = folder / "cookie"
        path.touch(mode=0o600)
        path.write_text(cookie_of(self.client, server or self.server, self.topology.server4) + "\n")
        return path

    @contextlib.contextmanager
    def connected(self, outer: int = 4, *more: str) -> Iterator[Connection]:
        """Be connected over IP version `outer`, through the device TUNNEL; the inner IPv6 network is routed there."""
        address = self.topology.server_address(outer)
        with self.qosctl.connect(self.server, address, "-i", TUNNEL, *more) as connection:
            self.client.run(["ip", "route", "add", "fd77::/64", "dev", TUNNEL])
            yield connection

    @contextlib.contextmanager
    def attached(self, hook: str = "auto") -> Iterator[None]:
        """Have the program on the client's device."""
        self.qosctl.attach(self.device, hook)
        try:
            yield
        finally:
            self.qosctl.detach_all()  # the test may have detached


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
