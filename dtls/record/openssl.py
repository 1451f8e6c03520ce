"""All that reaches below pyOpenSSL's public face, and whether the installed libraries have what we use.

pyOpenSSL has no public call for a client's pre-shared key, for an extension of one's own in the ClientHello, or for
the host name a certificate must carry. The binding it is built on has all three; a test fails loudly when a release
takes one away, and a client with such a release says so before it opens a connection.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Any, cast

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from OpenSSL import SSL
from OpenSSL import _util as binding
from qosctl.bpf.errors import RefusedError

_lib: Any = binding.lib
_ffi: Any = binding.ffi

NEEDED = (
    "SSL_CTX_set_psk_client_callback",
    "SSL_CTX_add_client_custom_ext",
    "SSL_get0_param",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS",
    "X509_CHECK_FLAG_NEVER_CHECK_SUBJECT",
    "X509_V_ERR_HOSTNAME_MISMATCH",
    "X509_V_ERR_IP_ADDRESS_MISMATCH",
)

_PSK_CALLBACK = "unsigned int(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)"
_EXTENSION_ADD = "int(SSL *, unsigned int, const unsigned char **, size_t *, int *, void *)"


SEALING = "encrypt_into"
"""What each cipher we seal with has from cryptography 47 on: it writes a record where it is sent from."""


def in_use() -> str:
    """Return the version of the OpenSSL that runs here, and the package it came in: no update of the system's mends it."""
    from importlib import metadata  # noqa: PLC0415 - asked for by few, and slow to import

    return f"{SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()}, in cryptography {metadata.version('cryptography')}"


def missing() -> tuple[str, ...]:
    """Return the calls we need that the installed libraries lack; empty when all is well."""
    below = (name for name in NEEDED if not hasattr(_lib, name))
    ciphers = (f"{cipher.__name__}.{SEALING}" for cipher in (AESGCM, ChaCha20Poly1305) if not hasattr(cipher, SEALING))
    return (*below, *ciphers)


def require() -> None:
    """Raise RefusedError when the installed libraries lack something we need, be they too old or too new."""
    lacking = missing()
    if lacking:
        raise RefusedError(f"pyOpenSSL and cryptography as installed lack {', '.join(lacking)}", _releases_that_work())


def _releases_that_work() -> str:
    """Return the command that installs releases we were tested with: in the bounds that our own package declares."""
    from importlib import metadata  # noqa: PLC0415 - as above

    ours = {"pyopenssl", "cryptography"}
    declared = [need for need in metadata.requires("qosctl") or () if re.split(r"[^\w-]", need)[0].lower() in ours]
    return shlex.join(["pip", "install", *declared])


class PskContext:
    """A DTLS client context that offers one pre-shared key and one extension of ours in its ClientHello.

    The C side keeps bare pointers to the callbacks and to the extension's bytes: this object owns them and must
    outlive every connection made from `context`.
    """

    def __init__(self, identity: bytes, key: bytes, extension: int, payload: bytes) -> None:
        """`identity` without NUL bytes; `extension` is the number (16 bits) that carries `payload`."""
        require()
        self.context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        pointer = cast(Any, self.context)._context
        owned = _ffi.from_buffer(payload)

        def give_key(_ssl: Any, _hint: Any, out_identity: Any, identity_room: int, out_key: Any, key_room: int) -> int:
            if len(identity) >= identity_room or len(key) > key_room:
                return 0
            _ffi.memmove(out_identity, identity + b"\0", len(identity) + 1)
            _ffi.memmove(out_key, key, len(key))
            return len(key)

        def give_extension(_ssl: Any, _type: int, out: Any, out_length: Any, _alert: Any, _arg: Any) -> int:
            out[0] = _ffi.cast("const unsigned char *", owned)
            out_length[0] = len(payload)
            return 1

        # `error` is what C sees should Python fail inside the callback: no key, and an aborted handshake.
        key_callback = _ffi.callback(_PSK_CALLBACK, give_key, error=0)
        extension_callback = _ffi.callback(_EXTENSION_ADD, give_extension, error=-1)
        self._owned = (owned, key_callback, extension_callback)
        _lib.SSL_CTX_set_psk_client_callback(pointer, key_callback)
        added = _lib.SSL_CTX_add_client_custom_ext(
            pointer, extension, extension_callback, _ffi.NULL, _ffi.NULL, _ffi.NULL, _ffi.NULL
        )
        if added != 1:
            raise RefusedError(f"OpenSSL takes no ClientHello extension {extension}")


def expect_peer(connection: SSL.Connection, host: str) -> None:
    """Let verification fail unless the peer's certificate is for `host`, a name or an IP address (RFC 9525)."""
    require()
    param = _lib.SSL_get0_param(cast(Any, connection)._ssl)
    try:
        packed = ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError:
        name = host.encode("ascii")
        # The subject's common name is no longer a host name: only subjectAltName counts.
        flags = _lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | _lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
        _lib.X509_VERIFY_PARAM_set_hostflags(param, flags)
        done = _lib.X509_VERIFY_PARAM_set1_host(param, name, len(name))
    else:
        done = _lib.X509_VERIFY_PARAM_set1_ip(param, packed, len(packed))
    if done != 1:
        raise RefusedError(f"{host}: no name a certificate could carry")


def is_another_name(code: int) -> bool:
    """Say whether a verification error means that the certificate is good, but for another name or address."""
    return code in {_lib.X509_V_ERR_HOSTNAME_MISMATCH, _lib.X509_V_ERR_IP_ADDRESS_MISMATCH}


def verify_message(code: int) -> str:
    """Return OpenSSL's words for a verification error."""
    return str(binding.text(_lib.X509_verify_cert_error_string(code)))


def reason(error: SSL.Error) -> str:
    """Return OpenSSL's own reason for `error` in one line."""
    arguments = error.args
    if arguments and isinstance(arguments[0], list):
        return "; ".join(str(entry[-1]) for entry in arguments[0]) or "unknown reason"
    return str(arguments[-1]) if arguments else type(error).__name__
