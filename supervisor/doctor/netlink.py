"""rtnetlink, as thin as it gets: one message, and what the kernel answers, in its own words.

The doctor asks the kernel with nothing in between: a library that masks, renames or refuses a value would hide just what is
looked for. Structs follow linux/netlink.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

NEW_LINK, NEW_ADDRESS, NEW_ROUTE, NEW_RULE, NEW_QDISC = 16, 20, 24, 32, 36
GET_LINK, GET_ROUTE, GET_RULE, GET_QDISC, GET_FILTER = 18, 26, 34, 38, 46
DELETE_LINK, DELETE_ROUTE, DELETE_RULE = 17, 25, 33

ROUTE, SOCK_DIAG = 0, 4  # netlink families
_REQUEST, _ACK, _DUMP, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3
_ACK_TLVS, _ERROR_TEXT = 0x200, 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 17
_NESTED = 1 << 15
_TYPE_MASK = 0x3FFF  # less the "nested" and "network byte order" bits


@dataclass(frozen=True)
class Reply:
    """The kernel's answer: an errno or 0, its own explanation if any, and the messages (type, body) of a dump."""

    error: int
    said: str
    messages: tuple[tuple[int, bytes], ...] = ()

    @property
    def reason(self) -> str:
        """Why it was refused, in the kernel's words where it has some."""
        return self.said or os.strerror(self.error)


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """Encode one attribute: bytes as they are, text with its zero, numbers as 32 bits."""
    if isinstance(value, str):
        value = os.fsencode(value) + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Encode an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(raw: bytes) -> dict[int, bytes]:
    """Decode attributes; of several of one kind the last; total over any bytes."""
    return dict(each_attribute(raw))


def each_attribute(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes in order, as far as they make sense."""
    at = 0
    while at + 4 <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < 4 or at + length > len(raw):
            return
        yield kind & _TYPE_MASK, raw[at + 4 : at + length]
        at += length + (-length % 4)


class Netlink:
    """A netlink socket of the network namespace that the calling thread is in. Use it in a `with`."""

    def __init__(self, family: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def change(self, kind: int, body: bytes) -> Reply:
        """Ask for one change and return what came of it; what exists already is refused."""
        return self._exchange(kind, body, _ACK | _CREATE | _EXCLUSIVE)

    def delete(self, kind: int, body: bytes) -> Reply:
        """Ask for one removal and return what came of it."""
        return self._exchange(kind, body, _ACK)

    def must(self, kind: int, body: bytes) -> None:
        """Ask for a change that has to succeed; OSError with the kernel's reason."""
        reply = self.change(kind, body)
        if reply.error:
            raise OSError(reply.error, reply.reason)

    def get(self, kind: int, body: bytes) -> Reply:
        """Ask for one object."""
        return self._exchange(kind, body, 0)

    def dump(self, kind: int, body: bytes) -> Reply:
        """Ask for all objects of a kind."""
        return self._exchange(kind, body, _DUMP)

    def _exchange(self, kind: int, body: bytes, flags: int) -> Reply:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        found: list[tuple[int, bytes]] = []
        while True:
            raw = self._socket.recv(_RECEIVE_BYTES)
            while len(raw) >= _HEADER.size:
                length, kind, flags_back, sequence, _port = _HEADER.unpack_from(raw)
                message, raw = raw[_HEADER.size : length], raw[length + (-length % 4) :]
                if sequence != self._sequence:
                    continue
                if kind in (_ERROR, _DONE):
                    return _reply(message, flags_back, found)
                found.append((kind, message))
                if not flags & _DUMP:
                    return Reply(0, "", tuple(found))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reply(message: bytes, flags: int, found: list[tuple[int, bytes]]) -> Reply:
    (error,) = struct.unpack_from("=i", message) if len(message) >= 4 else (0,)
    said = b""
    if flags & _ACK_TLVS:
        said = attributes(message[4 + _HEADER.size :]).get(_ERROR_TEXT, b"")
    return Reply(max(0, -error), said.split(b"\0")[0].decode("utf-8", "replace"), tuple(found))
