"""A real ocserv with a certificate and users of its own, run by hand: no service manager, no root folders."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.namespace import LabError, Namespace, end

_CONFIGURATION = """\
auth = "plain[passwd={folder}/passwd]"
tcp-port = {port}
{udp}
run-as-user = nobody
run-as-group = nogroup
socket-file = {folder}/ocserv.sock
pid-file = {folder}/ocserv.pid
server-cert = {folder}/cert.pem
server-key = {folder}/key.pem
isolate-workers = false
max-clients = 16
max-same-clients = 0
max-ban-score = 0
rate-limit-ms = 0
keepalive = 32400
dpd = 20
try-mtu-discovery = false
tls-priorities = "NORMAL:%SERVER_PRECEDENCE"
auth-timeout = 40
cookie-timeout = 300
rekey-time = 172800
device = vpns
predictable-ips = true
ipv4-network = 192.168.77.0
ipv4-netmask = 255.255.255.0
{ipv6}
ping-leases = false
dtls-psk = true
use-occtl = false
"""


class Ocserv:
    """ocserv in `namespace` on TCP and (with `dtls`) UDP `port`, all addresses of both families.

    `names` become the certificate's subjectAltName, addresses as addresses and the rest as DNS names; the first is its CN,
    and all that it has where `alternatives` is False. `users` maps name to password. Without `ipv6` it gives IPv4 addresses
    alone. `more` is further configuration text; ocserv takes the last value of an option given twice.
    Inside the tunnel it is `inner4` and `inner6`.
    """

    inner4, inner6 = "192.168.77.1", "fd77::1"
    network6 = "fd77::/64"  # clients get single addresses of it, so reaching inner6 takes a route

    def __init__(
        self,
        namespace: Namespace,
        names: Sequence[str],
        *,
        users: Mapping[str, str] | None = None,
        port: int = 4443,
        dtls: bool = True,
        alternatives: bool = True,
        ipv6: bool = True,
        more: str = "",
    ) -> None:
        self.port = port
        self.users = dict(users or {"alice": "correct horse battery staple"})
        self._namespace = namespace
        self._names = names
        self._dtls = dtls
        self._alternatives = alternatives
        self._ipv6 = ipv6
        self._more = more
        self._stack = contextlib.ExitStack()
        self._pids: set[int] = set()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qosctl-ocserv-"))
            self.folder = Path(folder)
            self.folder.chmod(0o711)  # workers run as nobody and look for the socket
            self._write_certificate()
            self._write_users()
            self._write_configuration()
            self._log = stack.enter_context((self.folder / "log").open("w"))
            self._process = self._start()
            stack.callback(self.stop)
            self._wait_until_listening()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ca(self) -> Path:
        """The certificate (PEM); it is self-signed, so it is its own authority."""
        return self.folder / "cert.pem"

    @property
    def pin(self) -> str:
        """The public key pin as --servercert takes it: pin-sha256:BASE64 of the SubjectPublicKeyInfo (RFC 7469)."""
        certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return "pin-sha256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode()

    @property
    def log(self) -> str:
        """What the server has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def pids(self) -> set[int]:
        """Return the process ids of the server and its children, security module and workers, alive now."""
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return set()
        self._pids |= {pid, *map(int, children)}
        return set(filter(_lives, self._pids))

    def password_file(self, user: str) -> Path:
        """Return a file (mode 0600) holding the user's password and a newline."""
        path = self.folder / f"{user}.password"
        path.touch(mode=0o600)
        path.write_text(self.users[user] + "\n")
        return path

    def stop(self) -> None:
        """End the server; its workers and their tunnel devices go with it. Stopping twice is fine."""
        self.pids()
        end(self._process)
        deadline = time.monotonic() + 3
        while any(map(_lives, self._pids)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def restart(self) -> None:
        """Stop and start again with the same certificate, users and port. Sessions and cookies are lost."""
        self.stop()
        self._pids.clear()
        self._process = self._start()
        self._wait_until_listening()

    def reconfigure(self, *, dtls: bool) -> None:
        """Offer DTLS or not, from the next restart on."""
        self._dtls = dtls
        self._write_configuration()

    def change_password(self, user: str, password: str) -> None:
        """Let the server want another password from now on; `users` and `password_file` know nothing of it."""
        self._namespace.run(["ocpasswd", "-c", str(self.folder / "passwd"), user], stdin=f"{password}\n{password}\n")

    def _start(self) -> subprocess.Popen[str]:
        return self._namespace.popen(
            ["ocserv", "-f", "-c", str(self.folder / "ocserv.conf")], stdout=self._log, stderr=self._log
        )

    def _wait_until_listening(self) -> None:
        if not self._namespace.wait_for_listener(self.port, self._process):
            raise LabError(f"ocserv did not come up:\n{self.log}")

    def _write_configuration(self) -> None:
        udp = f"udp-port = {self.port}" if self._dtls else ""
        ipv6 = f"ipv6-network = {self.network6}" if self._ipv6 else ""
        text = _CONFIGURATION.format(folder=self.folder, port=self.port, udp=udp, ipv6=ipv6)
        (self.folder / "ocserv.conf").write_text(text + self._more)

    def _write_users(self) -> None:
        for user, password in self.users.items():
            self.change_password(user, password)

    def _write_certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._names[0])])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        )
        if self._alternatives:
            names = x509.SubjectAlternativeName([_alternative(name) for name in self._names])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path = self.folder / "key.pem"
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


def _lives(pid: int) -> bool:
    """Whether the process has not ended. The machine's first process, which its orphans go to, may be slow to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
