"""The client everyone has: openconnect, run in a namespace against the lab's ocserv, to measure beside ours."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

from tests.lab.namespace import LabError, Namespace, end
from tests.lab.ocserv import Ocserv

# openconnect makes the device and asks a script to configure it; the usual one changes routes and resolv.conf too.
_SCRIPT = """\
#!/bin/sh -e
[ "$reason" = connect ] || exit 0
ip link set dev "$TUNDEV" mtu "$INTERNAL_IP4_MTU" up
ip addr add "$INTERNAL_IP4_ADDRESS/$INTERNAL_IP4_NETMASKLEN" dev "$TUNDEV"
if [ -n "$INTERNAL_IP6_NETMASK" ]; then ip addr add "$INTERNAL_IP6_NETMASK" dev "$TUNDEV" nodad; fi
: >"$(dirname "$0")/configured"
"""


def cookie_of(namespace: Namespace, server: Ocserv, address: str, user: str = "alice") -> str:
    """Log in, and return the cookie with which anybody may connect."""
    words = ["openconnect", "--authenticate", "--non-inter", "--passwd-on-stdin", f"--user={user}"]
    url = f"https://{address}:{server.port}"
    said = namespace.run([*words, f"--servercert={server.pin}", url], stdin=server.users[user] + "\n").stdout
    (cookie,) = [row.partition("=")[2].strip("'") for row in said.splitlines() if row.startswith("COOKIE=")]
    return cookie


class Openconnect:
    """A running openconnect. Inside the block its device is up and DTLS carries it; leaving it is Ctrl-C.

    `passtos` copies the TOS byte of inner packets to the outer ones. The password goes in on stdin, the server's key
    is pinned, and the script sets addresses and MTU of the device and nothing else; `also` are lines for it to begin with.
    """

    def __init__(
        self,
        namespace: Namespace,
        server: Ocserv,
        address: str,
        *,
        passtos: bool = False,
        user: str = "alice",
        device: str = "oc0",
        timeout: float = 20,
        also: str = "",
    ) -> None:
        self._also = also
        self._namespace = namespace
        self._server = server
        self._address = address
        self._passtos = passtos
        self._user = user
        self._timeout = timeout
        self.device = device

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="qosctl-openconnect-")
        self._out: IO[bytes] = tempfile.TemporaryFile()  # a pipe could fill and block
        with self._server.password_file(self._user).open() as password:
            self.process: subprocess.Popen[str] = self._namespace.popen(
                self._words(), stdin=password, stdout=self._out, stderr=self._out
            )
        try:
            self._wait_until_connected()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """What it has said."""
        # The child shares our file offset: pread() leaves it alone.
        return os.pread(self._out.fileno(), 1 << 20, 0).decode(errors="replace")

    def stop(self) -> int:
        """End it and return its exit status."""
        status = end(self.process, signal.SIGINT)  # says goodbye to the server and removes the device
        self._out.close()
        self._folder.cleanup()
        return status

    def _words(self) -> list[str]:
        script = Path(self._folder.name) / "script"
        script.touch(mode=0o700)
        shebang, newline, body = _SCRIPT.partition("\n")
        script.write_text(shebang + newline + self._also + body)
        host = f"[{self._address}]" if ":" in self._address else self._address
        login = ["--user", self._user, "--passwd-on-stdin", "--servercert", self._server.pin, "--non-inter"]
        passtos = ["--passtos"] if self._passtos else []
        url = f"https://{host}:{self._server.port}"
        return ["openconnect", *login, *passtos, "--interface", self.device, "--script", str(script), url]

    def _wait_until_connected(self) -> None:
        deadline = time.monotonic() + self._timeout
        configured = Path(self._folder.name) / "configured"
        while not (configured.exists() and "Established DTLS" in self.output):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"openconnect: no tunnel, status {self.process.poll()}: {self.output.strip()}")
            time.sleep(0.02)
