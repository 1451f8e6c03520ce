"""What a VPN protocol over TLS and DTLS is to the rest of the client: one row of values and functions. No I/O.

    dial, TLS --> log_in --> session_request --> parse_session --> dtls_key --> frames over DTLS, frames over TLS

A second protocol is a second row. Nothing but a row, and whoever chooses one (`options.ConnectOptions`), sees the room that
it comes from: import-linter holds that. Where packets pass, its values are bound once a session, so the row costs them
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qosctl.dtls.record.handshake import PreSharedKey
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.vpn.frames import Frame, FrameKind, StreamDecoder
from qosctl.dtls.vpn.http import Response
from qosctl.dtls.vpn.server_url import Gateway
from qosctl.dtls.vpn.session import Session


class Login(Protocol):
    """One login: `first_request`, then `answer` for each response until it gives None."""

    @property
    def password_sent(self) -> bool:
        """Whether the server has the password: from then on silence may mean that it is wrong."""
        ...

    @property
    def cookie(self) -> str:
        """What names the session from now on; empty until `answer` has given None."""
        ...

    def first_request(self) -> bytes:
        """Return the request to begin with."""
        ...

    def answer(self, response: Response) -> bytes | None:
        """Return the next request, None when logged in. LoginError, NoRoomError or RefusedError when there is none."""
        ...


@dataclass(frozen=True)
class VpnProtocol:
    """One protocol, in the order in which a session needs it."""

    cookie_name: str
    """What a user who brings the cookie of a login made elsewhere may call it."""
    log_in: Callable[[Gateway, PasswordLogin], Login]
    session_request: Callable[[Gateway, CookieLogin, str, int], bytes]
    """The request for the tunnel: the server, the cookie, our host name, the MTU of the path to the server in bytes."""
    parse_session: Callable[[Response, Gateway], Session]
    """Read the answer. CookieRefusedError, or RefusedError where the server refuses or what it gives makes no sense."""
    dtls_key: Callable[[Callable[[bytes, int], bytes], Session], PreSharedKey]
    """The key of the session's DTLS handshakes. The first argument exports key material of TLS (RFC 5705): label, bytes."""

    data_byte: int
    """What a DTLS record begins with that holds an inner packet, and no other: one comparison for each that comes."""
    encode_record: Callable[[FrameKind, bytes], bytes]
    """Return the plaintext of the DTLS record that carries a frame."""
    decode_record: Callable[[bytes], Frame | None]
    """Take such a plaintext apart; None for what is no frame. Never raises."""

    packet_to_stream: Callable[[bytes], bytes]
    """Return what to write to TLS for an inner packet. ValueError for more than 65,535 bytes."""
    encode_stream: Callable[[FrameKind, bytes], bytes]
    """The same for any frame."""
    stream_decoder: Callable[[], StreamDecoder]
    """Make what reads such frames of one TLS channel."""
    disconnect: bytes
    """What to write to TLS to end the session for good."""
    end_message: Callable[[Frame], str]
    """The server's words, fit to be shown, in the frame by which it ends the session; possibly empty."""
