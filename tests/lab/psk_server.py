"""The far end of a DTLS handshake: OpenSSL as a PSK server over memory BIOs, the way a VPN server sets it up."""

from __future__ import annotations

import contextlib
from typing import Any, cast

from OpenSSL import SSL
from OpenSSL import _util as binding
from qosctl.dtls.anyconnect.protocol import APP_ID_EXTENSION

_lib: Any = binding.lib
_ffi: Any = binding.ffi


class PskServer:
    """Takes datagrams, gives datagrams; `identity` and `app_id` are what the client said."""

    def __init__(self, psk: bytes, suites: bytes = b"PSK") -> None:
        self.identity = b""
        self.app_id = b""
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET)
        context.set_cipher_list(suites)

        def psk_of(_ssl: Any, identity: Any, out: Any, _room: int) -> int:
            self.identity = _ffi.string(identity)
            _ffi.memmove(out, psk, len(psk))
            return len(psk)

        def parse(_ssl: Any, _type: int, data: Any, length: int, _alert: Any, _arg: Any) -> int:
            self.app_id = bytes(_ffi.buffer(data, length))
            return 1

        self._callbacks = (
            _ffi.callback("unsigned int(SSL *, const char *, unsigned char *, unsigned int)", psk_of),
            _ffi.callback("int(SSL *, unsigned int, const unsigned char *, size_t, int *, void *)", parse),
        )
        pointer = cast(Any, context)._context
        _lib.SSL_CTX_set_psk_server_callback(pointer, self._callbacks[0])
        none = _ffi.NULL
        _lib.SSL_CTX_add_server_custom_ext(pointer, APP_ID_EXTENSION, none, none, none, self._callbacks[1], none)
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._tls.set_ciphertext_mtu(1200)
        self.done = False

    def feed(self, datagram: bytes) -> list[bytes]:
        """Return the flight that answers, in one datagram or none."""
        self._tls.bio_write(datagram)
        with contextlib.suppress(SSL.Error):
            self._tls.do_handshake()
            self.done = True
            self._tls.recv(20000)  # a flight that comes again is answered by whoever waits for data
        return self._written()

    def suite(self) -> str | None:
        return self._tls.get_cipher_name()

    def seal(self, plaintext: bytes) -> bytes:
        self._tls.send(plaintext)
        (datagram,) = self._written()
        return datagram

    def goodbye(self) -> bytes:
        """Close, and return the alert that says so."""
        self._tls.shutdown()
        (datagram,) = self._written()
        return datagram

    def open(self, datagram: bytes) -> bytes:
        self._tls.bio_write(datagram)
        return self._tls.recv(20000)

    def _written(self) -> list[bytes]:
        try:
            return [self._tls.bio_read(65536)]
        except SSL.WantReadError:
            return []
