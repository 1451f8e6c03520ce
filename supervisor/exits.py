"""Exit codes, as qosctl(1) documents them."""

from __future__ import annotations

import enum

from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError, RefusedError, UsageError


class Exit(enum.IntEnum):
    """What a command's exit status means."""

    FINE = 0
    USAGE = 1
    REFUSED = 2
    NOT_ATTACHED = 3
    NO_PERMISSION = 4


_CODES: dict[type[QosctlError], Exit] = {
    UsageError: Exit.USAGE,
    RefusedError: Exit.REFUSED,
    NotAttachedError: Exit.NOT_ATTACHED,
    NoPermissionError: Exit.NO_PERMISSION,
}


def exit_for(error: QosctlError) -> Exit:
    """Return the exit code for an error of the family, its subclasses included."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Exit.REFUSED)
