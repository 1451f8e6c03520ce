"""A real OpenVPN 2.6 in user space, client and server, and its outer wire read by somebody who has the keys.

Keys come from the client's log, which has them at verbosity 7; then it is told to say less. The decryption is the tests'
own and shares nothing with the project's. With a packet id in clear (AEAD), and without (CBC):

    opcode, key id, peer id (4) | packet id (4) | tag (16) | ciphertext
    opcode, key id, peer id (4) | HMAC | IV (16) | ciphertext of packet id (4), packet, padding
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.lab.capture import UDP, Capture, Frame
from tests.lab.namespace import LabError, Namespace, end
from tests.lab.topology import Topology
from tests.lab.wiretap import Inner

PORT = 1194
_COMMON = ("--dev-type", "tun", "--disable-dco", "--verb", "7", "--auth-nocache", "--keepalive", "1", "60")
_DATA = 9 << 3
_OPCODE = 0xF8
_HEADER, _PACKET_ID, _TAG, _IV = 4, 4, 16, 16
_PING = bytes.fromhex("2a187bf3641eb4cb07ed2d0a981fc748")
"""What a keepalive carries in place of a packet (ping.c of OpenVPN)."""


@dataclass(frozen=True)
class Suite:
    """What the data channel is sealed with; `hmac_bytes` is 0 where the cipher authenticates by itself."""

    cipher: str
    auth: str = "SHA1"
    hmac_bytes: int = 0

    def __str__(self) -> str:
        """Name it, as a test is named."""
        return f"{self.cipher}-{self.auth}" if self.hmac_bytes else self.cipher


GCM, CHACHA20 = Suite("AES-256-GCM"), Suite("CHACHA20-POLY1305")
CBC_SHA1, CBC_SHA256 = Suite("AES-256-CBC", "SHA1", 20), Suite("AES-256-CBC", "SHA256", 32)


@dataclass(frozen=True)
class Datagram:
    """A datagram of the tunnel that is no handshake, and the packet in it; None in a keepalive."""

    frame: Frame
    inner: Inner | None


class OpenVPN:
    """A tunnel from client to server over IP version `outer`. Inside the block it is up, and its outer wire is captured.

    Inside, the server is `inner4` and `inner6`, the client `near4` and `near6`. `words` go to the client's command line.
    """

    inner4, inner6 = "10.99.0.1", "fd99::1"
    near4, near6 = "10.99.0.2", "fd99::1000"

    def __init__(
        self, topology: Topology, suite: Suite, *, outer: int = 4, device: str = "ov0", words: tuple[str, ...] = ()
    ):
        self._topology = topology
        self._suite = suite
        self._outer = outer
        self._words = words
        self.device = device
        self._capture = Capture(topology.router, topology.router_client_if, self._is_ours)
        self._keys: dict[bool, Callable[[bytes], bytes]] = {}  # by whether the client seals with it

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qosctl-openvpn-")))
            stack.enter_context(self._capture)
            pins = {name: self._make_certificate(name) for name in ("client", "server")}
            addresses = ["--server", "10.99.0.0", "255.255.255.0", "--server-ipv6", "fd99::/64", "--topology", "subnet"]
            listens = ["--mode", "server", "--tls-server", "--dh", "none", "--proto", "udp6", "--port", str(PORT)]
            peer = ["--peer-fingerprint", pins["client"]]
            stack.callback(end, self._start(self._topology.server, "server", [*listens, *addresses, *peer]))
            self._wait_for("server", "Initialization Sequence Completed")
            to = ["--remote", self._topology.server_address(self._outer), str(PORT), f"udp{self._outer}", "--nobind"]
            peer = ["--peer-fingerprint", pins["server"]]
            stack.callback(end, self._start(self._topology.client, "client", ["--client", *to, *peer, *self._words]))
            self._wait_for("client", "Initialization Sequence Completed")
            for name in ("client", "server"):
                self._say_less(name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def frames(self) -> list[Frame]:
        """Return all that either end has sent to the other, in order: outgoing is what the server sent."""
        return self._capture.frames()

    def sent(self) -> list[Datagram]:
        """Return the client's datagrams of the data channel, in order, opened. Only until keys change."""
        return self._opened(from_client=True)

    def received(self) -> list[Datagram]:
        """Return the server's."""
        return self._opened(from_client=False)

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait until something is true of the wire, for some seconds."""
        deadline = time.monotonic() + 5
        while not enough() and time.monotonic() < deadline:
            time.sleep(0.02)

    def log(self, name: str) -> str:
        """Return what the client or the server has said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _is_ours(self, frame: Frame) -> bool:
        return frame.protocol == UDP and PORT in (frame.source_port, frame.destination_port)

    def _start(self, namespace: Namespace, name: str, words: list[str]) -> subprocess.Popen[str]:
        own = [
            "--dev",
            self.device,
            "--cert",
            f"{name}.pem",
            "--key",
            f"{name}.key",
            "--management",
            f"{name}.sock",
            "unix",
        ]
        seal = ["--data-ciphers", self._suite.cipher, "--auth", self._suite.auth]
        with (self._folder / f"{name}.log").open("w") as log:
            argv = ["openvpn", "--cd", str(self._folder), *_COMMON, *own, *seal, *words]
            return namespace.popen(argv, stdout=log, stderr=log)

    def _wait_for(self, name: str, word: str) -> None:
        deadline = time.monotonic() + 20
        while word not in self.log(name):
            if time.monotonic() > deadline:
                raise LabError(f"openvpn, the {name}: not {word!r}:\n{self.log(name)[-2000:]}")
            time.sleep(0.01)

    def _say_less(self, name: str) -> None:
        """Have it log no packets any more: that would take most of its time."""
        with socket.socket(socket.AF_UNIX) as management, management.makefile() as said:
            management.connect(str(self._folder / f"{name}.sock"))
            management.sendall(b"verb 3\n")
            while "SUCCESS" not in said.readline():
                pass

    def _make_certificate(self, name: str) -> str:
        """Make a key and a certificate that is known by its fingerprint alone."""
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"]
        shown = ["openssl", "x509", "-in", f"{name}.pem", "-noout", "-fingerprint", "-sha256"]
        subprocess.run([*request, *files], cwd=self._folder, check=True, capture_output=True)
        said = subprocess.run(shown, cwd=self._folder, check=True, capture_output=True, text=True).stdout
        return said.strip().partition("=")[2]

    def _opened(self, *, from_client: bool) -> list[Datagram]:
        sent = [frame for frame in self._capture.frames() if frame.outgoing != from_client]
        data = [frame for frame in sent if frame.payload[0] & _OPCODE == _DATA]
        if from_client not in self._keys and data:
            self._keys[from_client] = self._opener(from_client, data[0].payload)
        packets = ((frame, self._keys[from_client](frame.payload)) for frame in data)
        return [Datagram(frame, None if packet[:1] == _PING[:1] else Inner.parse(packet)) for frame, packet in packets]

    def _opener(self, from_client: bool, first: bytes) -> Callable[[bytes], bytes]:
        way = "Outgoing" if from_client else "Incoming"
        found = re.search(rf"{way} Data Channel: CIPHER KEY: ([0-9a-f ]+)", self.log("client"))
        if found is None:
            raise LookupError("the client has not logged its keys")
        key = bytes.fromhex(found[1])
        if self._suite == GCM:
            implicit = nonce_of(key, first)[_PACKET_ID:]
            return lambda payload: _open_gcm(key, implicit, payload)
        if self._suite.hmac_bytes:
            return lambda payload: _open_cbc(key, payload[_HEADER + self._suite.hmac_bytes :])
        raise LookupError(f"{self._suite} is not opened: its packets are told by their lengths")


def _open_gcm(key: bytes, implicit: bytes, payload: bytes) -> bytes:
    seen, tag, body = payload[: _HEADER + _PACKET_ID], payload[8:24], payload[24:]
    return AESGCM(key).decrypt(seen[_HEADER:] + implicit, body + tag, seen)


def _open_cbc(key: bytes, sealed: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CBC(sealed[:_IV])).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    plain = unpadder.update(cipher.update(sealed[_IV:]) + cipher.finalize()) + unpadder.finalize()
    return plain[_PACKET_ID:]


def nonce_of(key: bytes, payload: bytes) -> bytes:
    """Return the 12 bytes that a datagram was sealed with (AES-GCM), half of which OpenVPN tells nobody.

    The tag is a sum of the counter's first block, enciphered, and of a hash that whoever has the key can compute: so the
    block can be deciphered (NIST SP 800-38D, section 7.1).
    """
    block = Cipher(algorithms.AES(key), modes.ECB())
    hash_key = int.from_bytes(block.encryptor().update(bytes(16)))
    seen, tag, body = payload[: _HEADER + _PACKET_ID], payload[8:24], payload[24:]
    lengths = (len(seen) * 8).to_bytes(8) + (len(body) * 8).to_bytes(8)
    total = 0
    for part in (seen, body, lengths):
        for at in range(0, len(part), 16):
            total = _times(total ^ int.from_bytes(part[at : at + 16].ljust(16, b"\0")), hash_key)
    counter = block.decryptor().update((total ^ int.from_bytes(tag)).to_bytes(16))
    assert counter[:_PACKET_ID] == seen[_HEADER:], "the packet id is in clear, too"
    return counter[:12]


def _times(left: int, right: int) -> int:
    """Multiply in the field of 2^128 elements that GCM counts in, whose lowest bit comes first (SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (0xE1 << 120 if right & 1 else 0)
    return product
