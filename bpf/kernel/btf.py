"""Where the running kernel keeps a field of a struct: read from its own BTF.

The layout of /sys/kernel/btf/vmlinux is that of Documentation/bpf/btf.rst (struct btf_header, struct btf_type). A module's,
beside it, goes on where the kernel's ends: its types count on from there, and so do the places of its strings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.errors import RefusedError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")  # magic, version, flags, header length, types' offset and length, strings' the same
_TYPE = struct.Struct("=III")  # name, info, size or type
_MEMBER = struct.Struct("=III")  # name, type, offset in bits
_STRUCT, _UNION = 4, 5
_OTHER_NAMES = frozenset({8, 9, 10, 18})  # typedef, volatile, const, type tag
# Bytes behind a type: a fixed number, and so many for each of its parts. Kinds that are not here have none.
_BEHIND = {
    1: (4, 0),
    3: (12, 0),
    14: (4, 0),
    17: (4, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    13: (0, 8),
    15: (0, 12),
    19: (0, 12),
}
_UNNAMED = 0


@dataclass(frozen=True)
class _Type:
    """Where a type's parts begin, and how many there are. `target` is the type's size, or another type."""

    kind: int
    target: int
    parts_at: int
    parts: int
    bit_fields: bool


class Btf:
    """The kernel's description of its own types."""

    def __init__(self, path: Path = VMLINUX, *, base: Btf | None = None) -> None:
        """Read it, half a second; RefusedError where the kernel has none. A module's has the kernel's for its `base`."""
        self._base = base
        try:
            self._raw = path.read_bytes()
            magic, _, _, header, types, length, strings, self._strings_length = _HEADER.unpack_from(self._raw)
        except (OSError, struct.error):
            raise _no_btf(path) from None
        if magic != _MAGIC:
            raise _no_btf(path)
        self._strings = header + strings
        self._first = 0 if base is None else base.count
        # Numbers of the kernel's own types count from 1.
        self._types: list[_Type] = [] if base is not None else [_Type(0, 0, 0, 0, bit_fields=False)]
        self._structs: dict[str, int] = {}
        self._walk(header + types, header + types + length)

    @property
    def count(self) -> int:
        """How many types there are, those of the base and the void type included."""
        return self._first + len(self._types)

    def size(self, name: str) -> int:
        """Return the bytes of the struct `name`."""
        number = self._structs.get(name)
        if number is None:
            raise _unknown(name)
        return self._type(number).target

    def offset(self, name: str, *fields: str) -> int:
        """Return how many bytes into the struct `name` the field lies; more `fields` go into structs within it."""
        number = self._structs.get(name)
        bits = 0
        for field in fields:
            found = None if number is None else self._field(number, field)
            if found is None:
                raise _unknown(f"{name}.{'.'.join(fields)}")
            number, more = found
            bits += more
        return bits // 8

    def has(self, name: str, field: str) -> bool:
        """Whether the struct has such a field."""
        number = self._structs.get(name)
        return number is not None and self._field(number, field) is not None

    def _walk(self, at: int, end: int) -> None:
        while at < end:
            name, info, target = _TYPE.unpack_from(self._raw, at)
            kind, parts = info >> 24 & 0x1F, info & 0xFFFF
            at += _TYPE.size
            if kind == _STRUCT and name != _UNNAMED:
                self._structs.setdefault(self._text(name), self.count)
            self._types.append(_Type(kind, target, at, parts, bit_fields=bool(info >> 31)))
            fixed, each = _BEHIND.get(kind, (0, 0))
            at += fixed + each * parts

    def _field(self, number: int, wanted: str) -> tuple[int, int] | None:
        """Return a field's type and its offset in bits; what is in structs and unions without a name is the struct's."""
        for name, number_of_type, bits in self._members(number):
            if name == wanted:
                return number_of_type, bits
            if not name and self._type(number_of_type).kind in (_STRUCT, _UNION):
                within = self._field(number_of_type, wanted)
                if within is not None:
                    return within[0], bits + within[1]
        return None

    def _members(self, number: int) -> Iterator[tuple[str, int, int]]:
        while self._type(number).kind in _OTHER_NAMES:
            number = self._type(number).target
        if self._base is not None and number < self._first:
            yield from self._base._members(number)
            return
        found = self._type(number)
        if found.kind not in (_STRUCT, _UNION):
            return
        for n in range(found.parts):
            name, number_of_type, offset = _MEMBER.unpack_from(self._raw, found.parts_at + n * _MEMBER.size)
            yield self._text(name), number_of_type, offset & 0xFFFFFF if found.bit_fields else offset

    def _type(self, number: int) -> _Type:
        if self._base is not None and number < self._first:
            return self._base._type(number)
        return self._types[number - self._first]

    def _text(self, at: int) -> str:
        if self._base is not None:
            if at < self._base._strings_length:
                return self._base._text(at)
            at -= self._base._strings_length
        begin = self._strings + at
        return self._raw[begin : self._raw.index(b"\0", begin)].decode()


def _unknown(what: str) -> RefusedError:
    return RefusedError(f"this kernel's BTF knows no {what}", "uname -r, and report it")


def _no_btf(path: Path) -> RefusedError:
    return RefusedError(f"this kernel does not describe itself: no BTF in {path}", "a kernel with CONFIG_DEBUG_INFO_BTF")
