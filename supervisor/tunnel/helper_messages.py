"""What a client and its helper say to each other: a JSON object a packet, descriptors beside it.

    client -> helper    {"number": N, "kind": "...", "arguments": {...}}
    helper -> client    {"number": N, "answer": ...} or {"number": N, "refused": KIND, "why": ..., "hint": ...}, to each
                         once it is done

The helper trusts no message. Reading raises ValueError alone, for what makes no sense.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qosctl.bpf.errors import NoPermissionError, NotAttachedError, QosctlError, RefusedError, UsageError

MESSAGE_BYTES_MAX = 1 << 17
DESCRIPTORS_MAX = 253
"""SCM_MAX_FD of net/scm.h. With room for fewer the kernel would close the others in our name, which may take its time."""
_NUMBER_MAX = 1 << 53
_DESCRIPTOR = "i"
_REFUSALS = (UsageError, NotAttachedError, NoPermissionError)  # any other is a RefusedError


@dataclass(frozen=True)
class Request:
    """What a client asks for. Nothing is known of the arguments but that they have names."""

    number: int
    kind: str
    arguments: dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in ends:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_BYTES_MAX)
    return ends


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message without waiting. BlockingIOError without room for it, ConnectionError when the other end is closed."""
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array(_DESCRIPTOR, descriptors))] if descriptors else []
    connection.sendmsg([json.dumps(message).encode()], beside, socket.MSG_DONTWAIT)


def receive(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """Return a message's bytes, its descriptors, which are the caller's to close, and whether it was whole.

    Empty bytes mean that the other end is closed. BlockingIOError when nothing has come.
    """
    # socket.recv_fds of Python 3.11 forgets its flags.
    room = socket.CMSG_SPACE(DESCRIPTORS_MAX * array(_DESCRIPTOR).itemsize)
    message, beside, told, _ = connection.recvmsg(MESSAGE_BYTES_MAX, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    descriptors = array(_DESCRIPTOR)
    for _level, _kind, data in beside:  # nothing else was asked for
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors), not told & (socket.MSG_TRUNC | socket.MSG_CTRUNC)


def parse_request(message: bytes) -> Request:
    """Read a request; ValueError for what is none."""
    read = _parse(message)
    number, kind, arguments = read.get("number"), read.get("kind"), read.get("arguments")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _NUMBER_MAX:
        raise ValueError("number")
    if not isinstance(kind, str) or not isinstance(arguments, dict):
        raise ValueError("kind or arguments")  # noqa: TRY004  (one kind of error for one kind of mistake)
    return Request(number, kind, arguments)


def parse_answer(message: bytes) -> dict[str, Any]:
    """Read what the helper says."""
    return _parse(message)


def refusal(error: QosctlError) -> dict[str, Any]:
    """Return the part of an answer that says why there is none."""
    kind = next((kind for kind in _REFUSALS if isinstance(error, kind)), RefusedError)
    return {"refused": kind.__name__, "why": error.message, "hint": error.hint}


def refused(answer: dict[str, Any]) -> QosctlError | None:
    """Return the error that an answer carries."""
    if "refused" not in answer:
        return None
    kind = next((kind for kind in _REFUSALS if kind.__name__ == answer["refused"]), RefusedError)
    return kind(str(answer.get("why")), str(answer.get("hint")))


def _parse(message: bytes) -> dict[str, Any]:
    try:
        read: object = json.loads(message)
        json.dumps(read, ensure_ascii=False).encode()  # half a surrogate pair is text for JSON, and for nobody else
    except RecursionError:  # brackets in brackets, by the thousand
        raise ValueError("too deep") from None
    if not isinstance(read, dict):
        raise ValueError("no object")  # noqa: TRY004  (as above)
    return read
