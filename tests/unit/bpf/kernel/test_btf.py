"""Offsets from BTF: of a hand-made description, and of the running kernel's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel.btf import Btf

INT, STRUCT, UNION, ARRAY, TYPEDEF = 1, 4, 5, 3, 8


def made(tmp_path: Path) -> Path:
    """
    typedef struct { u64 net; } wrapped;
    struct thing { u32 a[2]; union { u64 b; u32 c; }; u64 d : 3; wrapped w; };
    """
    names = b"\0int\0net\0wrapped\0thing\0a\0b\0c\0d\0w\0"

    def name(text: str) -> int:
        return names.index(b"\0" + text.encode() + b"\0") + 1 if text else 0

    def kind(number: int, text: str, size: int, *parts: bytes, bit_fields: bool = False) -> bytes:
        counted = len(parts) if number in (STRUCT, UNION) else 0
        info = number << 24 | counted | bit_fields << 31
        return struct.pack("=III", name(text), info, size) + b"".join(parts)

    def member(text: str, number: int, bits: int) -> bytes:
        return struct.pack("=III", name(text), number, bits)

    types = b"".join(
        [
            kind(INT, "int", 4, bytes(4)),
            kind(ARRAY, "", 0, struct.pack("=III", 1, 1, 2)),
            kind(STRUCT, "", 8, member("net", 1, 0)),
            kind(TYPEDEF, "wrapped", 3),
            kind(UNION, "", 8, member("b", 1, 0), member("c", 1, 0)),
            kind(
                STRUCT, "thing", 32, member("a", 2, 0), member("", 5, 64), member("d", 1, 3 << 24 | 128),
                member("w", 4, 192), bit_fields=True,
            ),
        ]
    )  # fmt: skip
    path = tmp_path / "btf"
    path.write_bytes(struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names)
    return path


def test_fields_are_found_through_unnamed_unions_typedefs_and_bit_fields(tmp_path: Path) -> None:
    btf = Btf(made(tmp_path))
    assert [btf.offset("thing", field) for field in "abcdw"] == [0, 8, 8, 16, 24]
    assert btf.offset("thing", "w", "net") == 24
    assert (btf.has("thing", "c"), btf.has("thing", "net"), btf.has("nothing", "a")) == (True, False, False)


def made_module(tmp_path: Path, base: bytes) -> Path:
    """struct private { thing t; int n; }; its types and strings go on where those of the kernel end."""
    kernels_names: int = struct.unpack_from("=HBBIIIII", base)[-1]
    names = b"private\0t\0n\0"

    def name(text: str) -> int:
        return kernels_names + names.index(text.encode() + b"\0")

    members = struct.pack("=IIIIII", name("t"), 6, 0, name("n"), 1, 256)
    types = struct.pack("=III", name("private"), STRUCT << 24 | 2, 40) + members
    path = tmp_path / "module"
    path.write_bytes(struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names)
    return path


def test_a_module_s_description_goes_on_where_the_kernel_s_ends(tmp_path: Path) -> None:
    kernel = made(tmp_path)
    btf = Btf(made_module(tmp_path, kernel.read_bytes()), base=Btf(kernel))
    assert (btf.offset("private", "n"), btf.size("private")) == (32, 40)
    assert btf.offset("private", "t", "w", "net") == 24
    with pytest.raises(RefusedError, match=r"knows no private\.w"):
        btf.offset("private", "w")
    with pytest.raises(RefusedError, match="knows no nothing"):
        btf.size("nothing")


@pytest.mark.parametrize("fields", [("x",), ("a", "x"), ("w", "x")])
def test_what_is_not_there_is_refused(tmp_path: Path, fields: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match=f"knows no thing.{'.'.join(fields)}"):
        Btf(made(tmp_path)).offset("thing", *fields)


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF" + bytes(60)])
def test_a_kernel_without_btf_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(RefusedError, match="does not describe itself"):
        Btf(tmp_path / "vmlinux")
