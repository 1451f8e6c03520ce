"""The DTLS 1.2 handshake with a key that both ends have before (RFC 6347, RFC 4279). OpenSSL does it; no sockets.

    client                                              server
      ClientHello, with an extension          -------->
                                              <--------  ServerHello, ServerHelloDone
      ClientKeyExchange, CCS, Finished        -------->
                                              <--------  CCS, Finished

The server sends the last flight, so a finished client has nothing left to send again. From then on the records are
ours: OpenSSL's object is dropped with its keys, and can write no record under a number that we own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from OpenSSL import SSL
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.numbering.plain import FIRST_NUMBER
from qosctl.dtls.record import openssl
from qosctl.dtls.record.keys import Cipher, RecordKeys, derive_keys
from qosctl.dtls.record.protection import ALERT, DTLS_1_2, HEADER_BYTES

SUITES = b"PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256"
HANDSHAKE_MTU = 1200
"""Bytes of UDP payload: our flights fit any path that is worth a tunnel, and the ClientHello must not be in parts."""


class HandshakeError(RefusedError):
    """The DTLS handshake cannot be finished."""


@dataclass(frozen=True, repr=False)
class PreSharedKey:
    """A key that both ends have, and how a ClientHello names it: by an identity, and an extension with a payload."""

    key: bytes
    identity: bytes
    extension: int
    payload: bytes


@dataclass(frozen=True, repr=False)
class Finished:
    """What a handshake leaves behind: `first_number` is above every record number it used."""

    suite: str
    keys: RecordKeys
    first_number: int


class Handshake:
    """One handshake: send what `datagrams_to_send` gives, `feed` what arrives, until `finished` is set.

    Its retransmission clock is OpenSSL's own (1 s, doubling); `next_timeout` says when to ask `datagrams_to_send` again.
    """

    def __init__(self, psk: PreSharedKey) -> None:
        self._psk_context = openssl.PskContext(psk.identity, psk.key, psk.extension, psk.payload)
        context = self._psk_context.context
        context.set_min_proto_version(DTLS_1_2)
        context.set_max_proto_version(DTLS_1_2)
        context.set_cipher_list(SUITES)
        context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET)
        self._tls: SSL.Connection | None = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._tls.set_ciphertext_mtu(HANDSHAKE_MTU)
        self._outgoing: list[bytes] = []
        self._highest_number = 0
        self.finished: Finished | None = None
        self._step(self._tls)

    def feed(self, datagram: bytes | memoryview) -> None:
        """Take one datagram from the server. HandshakeError when that ends all hope.

        Alerts in clear are passed over, as any record may be that proves nothing (RFC 6347 section 4.1.2.7): anybody on
        the way can write one. A server that really has refused says nothing more, which ends the attempt soon enough.
        """
        if self._tls is None:
            return
        records = b"".join(record for record in _records(bytes(datagram)) if not _anybodys_alert(record))
        if records:
            self._tls.bio_write(records)
            self._step(self._tls)

    def datagrams_to_send(self) -> list[bytes]:
        """Return what is to be sent now: a new flight, or the last one again when its time has come."""
        if self._tls is not None:
            try:
                self._tls.DTLSv1_handle_timeout()
            except SSL.Error as error:
                raise HandshakeError(f"no answer to the DTLS handshake: {openssl.reason(error)}") from None
            self._drain(self._tls)
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def next_timeout(self, now: float) -> float | None:
        """Return when to call `datagrams_to_send` although nothing came, on the clock of `now` (seconds)."""
        if self._tls is None:
            return None
        left = self._tls.DTLSv1_get_timeout()
        return None if left is None else now + left

    def _step(self, tls: SSL.Connection) -> None:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            self._drain(tls)
            return
        except SSL.Error as error:
            self._drain(tls)
            self._tls = None
            raise HandshakeError(f"the DTLS handshake failed: {openssl.reason(error)}") from None
        self._drain(tls)
        self.finished = self._finish(tls)
        self._tls = None

    def _finish(self, tls: SSL.Connection) -> Finished:
        suite = tls.get_cipher_name() or ""
        master, client, server = tls.master_key(), tls.client_random(), tls.server_random()
        if master is None or client is None or server is None:
            raise HandshakeError("the DTLS handshake ended without keys")
        keys = derive_keys(Cipher.from_suite(suite), master, client, server)
        return Finished(suite, keys, max(FIRST_NUMBER, self._highest_number + 1))

    def _drain(self, tls: SSL.Connection) -> None:
        """Take what OpenSSL wrote. The memory BIO runs records together: cut them apart, pack them into datagrams."""
        written = b""
        try:
            while True:
                written += tls.bio_read(65536)
        except SSL.WantReadError:
            pass
        datagram = b""
        for record in _records(written):
            self._highest_number = max(self._highest_number, int.from_bytes(record[3:11]))
            if datagram and len(datagram) + len(record) > HANDSHAKE_MTU:
                self._outgoing.append(datagram)
                datagram = b""
            datagram += record
        if datagram:
            self._outgoing.append(datagram)


def _records(datagram: bytes) -> Iterator[bytes]:
    """Cut records apart (RFC 6347 section 4.1). What is no whole record at the end comes as it is."""
    while datagram:
        end = HEADER_BYTES + int.from_bytes(datagram[11:13])
        yield datagram[:end]
        datagram = datagram[end:]


def _anybodys_alert(record: bytes) -> bool:
    """Whether this is an alert of epoch 0, which has no keys."""
    return record[:1] == bytes([ALERT]) and record[3:5] == bytes(2)
