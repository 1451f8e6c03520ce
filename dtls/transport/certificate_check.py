"""Whom we believe to be the server: the system's authorities, a file of them, or one pinned key."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

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
class Authorities:
    """These authorities, and no others."""

    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, path: str) -> Authorities:
        """Read a PEM file, once: after --setuid it may not be readable. UsageError where no certificate is in it."""
        try:
            certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", f"ls -l {path}") from error
        except ValueError:
            raise UsageError(f"{path}: no certificates to be read", f"openssl x509 -in {path} -noout -subject") from None
        return cls(tuple(certificates))


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


Trust = SystemTrust | Authorities | Pin
