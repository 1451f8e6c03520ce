"""The one error family of qosctl.

Every error a user can cause carries one line that says what is wrong, and what to try. The command line turns
the class into an exit code (see qosctl(1)); nothing below `supervisor` knows about exit codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVILEGE = "root with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON"
"""What everything together takes: root's files, and of root's capabilities these."""


class QosctlError(Exception):
    """Something a user can understand and mend.

    `message` says what is wrong, without a full stop; `hint` is a command or a short advice, or empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (try: {self.hint})" if self.hint else self.message


class UsageError(QosctlError):
    """The command line or an argument of a call makes no sense."""


class RefusedError(QosctlError):
    """The kernel or the server said no."""


class UntrustedError(RefusedError):
    """Somebody else could change what we were about to believe, run or remove (trusted_folders.py).

    `place` is the folder in question; `foreign` says that it was made by somebody else, and so what is in it.
    """

    def __init__(self, place: Path, what: str, hint: str, *, foreign: bool) -> None:
        super().__init__(f"{place} {what}", hint)
        self.place = place
        self.foreign = foreign


class BusyError(RefusedError):
    """Another process holds the lock that all commands take which change something."""


class NotAttachedError(QosctlError):
    """There is no attached program, or no connection, to act on."""


class LoginRefusedError(RefusedError):
    """The user is not let in: nothing gets better until a person does something."""


class NoRoomError(RefusedError):
    """The server cannot do it now, and may later: it is full, say."""


class DismissedError(NotAttachedError):
    """The server ended the session, and shows that it meant to: it takes the cookie no more."""


class ShortageError(RefusedError):
    """The system has no memory or no descriptors for it now; another time it may."""

    @classmethod
    def of(cls, what: str, error: OSError) -> ShortageError:
        """Return the error for what the system said while `what` was at work, which becomes its cause."""
        short = cls(f"{what}: {error.strerror or error}", "ulimit -n; free")
        short.__cause__ = error
        return short


class NoPermissionError(QosctlError):
    """The caller lacks the privilege: see PRIVILEGE."""


class StoppedError(QosctlError):
    """The user ended the command before it had begun its work."""


class InternalError(QosctlError):
    """A fault of ours: nothing that a user could mend."""

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """Return the error for an exception that nobody expected, which becomes its cause."""
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        internal = cls(f"internal error: {words}", "--debug, and report it")
        internal.__cause__ = error
        return internal


@contextmanager
def kernel_errors(doing: str) -> Iterator[None]:
    """Turn an OSError from the kernel into the family: what was being done, and what the kernel said of it."""
    try:
        yield
    except PermissionError as error:
        raise NoPermissionError(f"{doing} needs {PRIVILEGE}", "run it as root") from error
    except OSError as error:
        raise RefusedError(f"{doing}: the kernel refused: {error.strerror or error}", "qosctl status") from error
