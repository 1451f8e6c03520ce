"""The TLS handshake with the server, and the check of who answered (RFC 8446, RFC 9525)."""

from __future__ import annotations

import ipaddress
import select
import socket

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL.crypto import X509
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.record import openssl
from qosctl.dtls.transport.certificate_check import Authorities, Pin, SystemTrust, Trust, UntrustedError
from qosctl.dtls.transport.stop import Stop, wait
from qosctl.dtls.transport.tls_channel import ConnectionLostError, TlsChannel
from qosctl.dtls.vpn.server_url import Gateway

SUITES_1_2 = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 may use; TLS 1.3 has nothing weaker. The DTLS key is exported from this session: with RSA key exchange the
server's key would open every recorded tunnel, and CBC suites with SHA-1 leak by their timing."""


def open_channel(sock: socket.socket, gateway: Gateway, trust: Trust, deadline: float, stop: Stop) -> TlsChannel:
    """Do the handshake (TLS 1.2 or 1.3) on a connected, non-blocking socket, and check who answers.

    The socket is taken over, and closed when this fails. UntrustedError when the server is not whom `trust` wants,
    RefusedError when it does not speak TLS, ConnectionLostError when it goes away or says nothing until `deadline`.
    """
    try:
        judge = _Judge()
        tls = SSL.Connection(_context(trust, judge), None)
        tls.set_connect_state()
        if not _is_address(gateway.host):
            tls.set_tlsext_host_name(gateway.host.encode("ascii"))
        if not isinstance(trust, Pin):
            openssl.expect_peer(tls, gateway.host)
        channel = TlsChannel(sock, tls, str(gateway))
        try:
            while not channel.handshake_step():
                if not wait(stop, channel.fileno(), select.POLLIN, deadline):
                    raise ConnectionLostError(f"{gateway}: no answer to the TLS handshake")
        except SSL.Error as error:
            raise judge.refusal(gateway) or _handshake_failed(gateway, openssl.reason(error)) from None
        pin = _pin_of(channel.peer_certificate())
        if isinstance(trust, Pin) and pin != trust:
            raise UntrustedError(  # noqa: TRY301  (one way out closes the socket)
                f"{gateway}: the server's key is not the pinned one", _pin_hint(pin)
            )
    except BaseException:
        sock.close()
        raise
    return channel


class _Judge:
    """Remembers OpenSSL's first objection while a chain is verified; it never overrules."""

    def __init__(self) -> None:
        self._words = ""
        self._leaf: X509 | None = None

    def __call__(self, _tls: SSL.Connection, certificate: X509, code: int, depth: int, good: int) -> bool:
        if not good and not self._words:
            self._words = openssl.verify_message(code).lower()
            if depth == 0:
                self._leaf = certificate
            if openssl.is_another_name(code) and not _has_alternative_names(certificate):
                self._words = "it names itself in the CN only, which does not count: it needs a subjectAltName"
        return bool(good)

    def refusal(self, gateway: Gateway) -> UntrustedError | None:
        """Return the error for what was objected to, or None."""
        if not self._words:
            return None
        return UntrustedError(f"{gateway}: certificate not trusted: {self._words}", _pin_hint(_pin_of(self._leaf)))


def _handshake_failed(gateway: Gateway, reason: str) -> RefusedError:
    # The alert of a server that found nothing in common (RFC 5246 section 7.2.2); OpenSSL has no number for it here.
    nothing_in_common = reason.endswith("handshake failure")
    hint = "TLS 1.3 on the server, or ECDHE with AES-GCM" if nothing_in_common else "the port of an AnyConnect server"
    return RefusedError(f"{gateway}: TLS handshake failed: {reason}", hint)


def _context(trust: Trust, judge: _Judge) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(SUITES_1_2)
    # Who answers is checked once, and the DTLS key is of the first handshake: a server that asks for another is told no.
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    # A session is never resumed, and a half-closed one is closed.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    match trust:
        case Pin():
            context.set_verify(SSL.VERIFY_NONE)
            return context
        case Authorities(certificates):
            store = context.get_cert_store()
            assert store is not None
            for certificate in certificates:
                store.add_cert(X509.from_cryptography(certificate))
        case SystemTrust():
            context.set_default_verify_paths()
    context.set_verify(SSL.VERIFY_PEER, judge)
    return context


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _has_alternative_names(certificate: X509) -> bool:
    """Say whether the certificate has a subjectAltName; True where it cannot be read, as nothing else is known then."""
    try:
        certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    except ValueError:
        return True
    return True


def _pin_of(certificate: X509 | None) -> Pin | None:
    """Return the pin of the server's key, None when there is no certificate or no key we can read in it."""
    if certificate is None:
        return None
    try:
        return Pin.of(certificate.to_cryptography())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _pin_hint(pin: Pin | None) -> str:
    return f"--servercert {pin}, after comparing it with what the server's operator says" if pin else ""
