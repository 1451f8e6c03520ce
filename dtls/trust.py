"""Whom we believe to be the server: the system's authorities, a file of them, or one pinned key."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from qosctl.bpf.errors import RefusedError, UsageError

_PREFIX = "pin-sha256:"


class UntrustedError(RefusedError):
    """The server's certificate is not what we were told to trust."""


@dataclass(frozen=True)
class SystemTrust:
    """The certificate authorities the system trusts."""


@dataclass(frozen=True)
class CaFile:
    """The authorities in a PEM file, and no others."""

    path: str


@dataclass(frozen=True)
class Pin:
    """One public key, named by the SHA-256 of its SubjectPublicKeyInfo (32 bytes); the chain does not matter."""

    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Pin:
        """Read `pin-sha256:BASE64`, the form openconnect prints; UsageError for anything else."""
        try:
            digest = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error):
            digest = b""
        if not text.startswith(_PREFIX) or len(digest) != hashlib.sha256().digest_size:
            raise UsageError(f"{text!r} is not a pin: use {_PREFIX} and 44 characters of base64")
        return cls(digest)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Pin:
        """Return the pin of a certificate's public key."""
        public = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(hashlib.sha256(public).digest())

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self.digest).decode()


Trust = SystemTrust | CaFile | Pin
