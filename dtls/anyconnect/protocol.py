"""AnyConnect, as openconnect and ocserv speak it: the row by which the client knows it."""

from __future__ import annotations

from collections.abc import Callable

from qosctl.dtls.anyconnect.connect_response import connect_request, parse_session
from qosctl.dtls.anyconnect.frames import (
    DATA_BYTE,
    DISCONNECT,
    CstpDecoder,
    decode_dtls,
    encode_cstp,
    encode_cstp_packet,
    encode_dtls,
    end_message,
)
from qosctl.dtls.anyconnect.login import SESSION_COOKIE, Login
from qosctl.dtls.record.handshake import PreSharedKey
from qosctl.dtls.vpn.protocol import VpnProtocol
from qosctl.dtls.vpn.session import Session

PSK_EXPORTER_LABEL = b"EXPORTER-openconnect-psk"
PSK_BYTES = 32
_PSK_IDENTITY = b"psk"  # the server knows us by the App-ID; the name means nothing to it
APP_ID_EXTENSION = 48018
"""ClientHello extension that names the session: one length byte and the App-ID."""


def dtls_key(export: Callable[[bytes, int], bytes], session: Session) -> PreSharedKey:
    """Return the key that both ends of the HTTPS session can export, and the App-ID by which the server finds it."""
    return app_id_key(export(PSK_EXPORTER_LABEL, PSK_BYTES), session.app_id)


def app_id_key(key: bytes, app_id: bytes) -> PreSharedKey:
    """Return `key` as the one of the session with this App-ID (up to 255 bytes)."""
    return PreSharedKey(key, _PSK_IDENTITY, APP_ID_EXTENSION, bytes([len(app_id)]) + app_id)


ANYCONNECT = VpnProtocol(
    cookie_name=SESSION_COOKIE,
    log_in=Login,
    session_request=connect_request,
    parse_session=parse_session,
    dtls_key=dtls_key,
    data_byte=DATA_BYTE,
    encode_record=encode_dtls,
    decode_record=decode_dtls,
    packet_to_stream=encode_cstp_packet,
    encode_stream=encode_cstp,
    stream_decoder=CstpDecoder,
    disconnect=DISCONNECT,
    end_message=end_message,
)
