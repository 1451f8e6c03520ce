"""Exit codes, as qosctl(1) documents them."""

from __future__ import annotations

import enum

from qosctl.bpf.errors import (
    DismissedError,
    InternalError,
    LoginRefusedError,
    NoPermissionError,
    NoRoomError,
    NotAttachedError,
    QosctlError,
    RefusedError,
    StoppedError,
    UsageError,
)


class Exit(enum.IntEnum):
    """What a command's exit status means.

    1, 5 and 6 wait for a person: a service manager that starts the command again would only repeat them.
    """

    FINE = 0
    USAGE = 1
    REFUSED = 2
    NOT_ATTACHED = 3
    NO_PERMISSION = 4
    LOGIN_REFUSED = 5
    DISMISSED = 6
    NO_ROOM = 7
    INTERNAL = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # as a shell shows a command that SIGINT ended


_CODES: dict[type[QosctlError], Exit] = {
    UsageError: Exit.USAGE,
    RefusedError: Exit.REFUSED,
    NotAttachedError: Exit.NOT_ATTACHED,
    NoPermissionError: Exit.NO_PERMISSION,
    LoginRefusedError: Exit.LOGIN_REFUSED,
    DismissedError: Exit.DISMISSED,
    NoRoomError: Exit.NO_ROOM,
    InternalError: Exit.INTERNAL,
    StoppedError: Exit.INTERRUPTED,
}


def exit_for(error: QosctlError) -> Exit:
    """Return the exit code for an error of the family: that of its nearest class which has one."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), Exit.REFUSED)
