"""Why a session ended, from the error that ended it. No I/O."""

from __future__ import annotations

from qosctl.bpf.errors import InternalError, QosctlError, ShortageError
from qosctl.dtls.numbering.plain import NumbersExhaustedError
from qosctl.dtls.session.monitor import AddressChangedError, PathShrunkError, RekeyDueError
from qosctl.dtls.session.reconnect import Reason
from qosctl.dtls.session.tls_control import SessionEndedError, SilentError
from qosctl.dtls.transport.tls_channel import ConnectionLostError
from qosctl.dtls.vpn.frames import FrameError
from qosctl.dtls.vpn.session import Session

_TIMEOUT_SLACK_S = 10.0
_REASONS: dict[type[QosctlError], Reason] = {
    SessionEndedError: Reason.SERVER_GOODBYE,
    SilentError: Reason.SERVER_SILENT,
    ConnectionLostError: Reason.SERVER_CLOSED,
    FrameError: Reason.BROKEN,
    AddressChangedError: Reason.ADDRESS_CHANGED,
    RekeyDueError: Reason.REKEY,
    PathShrunkError: Reason.PATH_MTU,
    NumbersExhaustedError: Reason.REKEY,
    ShortageError: Reason.BROKEN,
    InternalError: Reason.BROKEN,
}
_BY_SERVER = {Reason.SERVER_GOODBYE, Reason.SERVER_CLOSED}
ENDINGS = tuple(_REASONS)
"""The errors after which another session may do better."""


def reason_of(error: QosctlError, session: Session, lasted_s: float) -> Reason:
    """Return the reason behind one of ENDINGS, when the session had lasted for `lasted_s` seconds."""
    reason = next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))
    # No frame says that time was up: the server only closes, or disconnects, about when it said it would.
    if session.timeout_s and lasted_s >= session.timeout_s - _TIMEOUT_SLACK_S and reason in _BY_SERVER:
        return Reason.SESSION_TIMEOUT
    return reason
