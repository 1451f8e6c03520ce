"""bpf(2), as thin as it gets: one function a command, file descriptors in and out, OSError from the kernel.

Structs follow `union bpf_attr` in linux/bpf.h. Only the commands that qosctl needs are here; compiling and loading is
bcc.py's (bcc).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280, "armv7l": 386, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE = range(4)
_OBJ_PIN, _OBJ_GET = 6, 7
_PROG_TEST_RUN = 10
_RAW_TRACEPOINT_OPEN = 17
_PROG_FD_BY_ID, _INFO_BY_FD, _PROG_QUERY = 13, 15, 16
_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 28, 29, 34

MAP_TYPE_ARRAY, MAP_TYPE_PERCPU_ARRAY, MAP_TYPE_LRU_HASH, MAP_TYPE_ARRAY_OF_MAPS, MAP_TYPE_DEVMAP = 2, 6, 9, 12, 14
F_MMAPABLE = 1 << 10
F_RDONLY = 1 << 3
TCX_EGRESS = 47
F_BEFORE = 1 << 3
F_AFTER = 1 << 4
F_ID = 1 << 5

_NAME_BYTES = 15  # BPF_OBJ_NAME_LEN less the terminating zero
_INFO_BYTES = 256
_PROGRAM_MAPS_MAX = 64  # the kernel's own limit (MAX_USED_MAPS)
_QUERY_MAX = 64  # the kernel's own limit of programs at one TCX hook (BPF_MPROG_MAX)


@dataclass(frozen=True)
class MapShape:
    """What a map is created with, sizes in bytes; two maps of one shape can stand in for each other."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


@dataclass(frozen=True)
class MapInfo:
    """What the kernel says of a map (struct bpf_map_info)."""

    id: int
    shape: MapShape
    name: str


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a program (struct bpf_prog_info); `loaded_at` in nanoseconds since boot."""

    id: int
    tag: str
    name: str
    loaded_at: int


@dataclass(frozen=True)
class LinkInfo:
    """What the kernel says of a TCX link (struct bpf_link_info); ifindex 0 once the device is gone."""

    id: int
    program_id: int
    ifindex: int


@dataclass(frozen=True)
class TestRun:
    """One BPF_PROG_TEST_RUN: the verdict, the packet afterwards, the context afterwards, nanoseconds a repeat."""

    verdict: int
    packet: bytes
    context: bytes
    duration_ns: int


_libc = ctypes.CDLL(None, use_errno=True)
_NUMBER = _SYSCALL_NUMBER.get(platform.machine())


def _bpf(command: int, attr: bytes | bytearray) -> int:
    """Call; a bytearray gets what the kernel writes back, and bytes are for commands where it writes nothing."""
    if _NUMBER is None:
        raise OSError(38, f"bpf(2) has no known number on {platform.machine()}")
    buffer = attr if isinstance(attr, bytes) else (ctypes.c_char * len(attr)).from_buffer_copy(attr)
    result: int = _libc.syscall(_NUMBER, command, buffer, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if isinstance(attr, bytearray):
        attr[:] = bytes(buffer)
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def object_name(name: str) -> str:
    """Return `name` as the kernel keeps it: 15 letters, digits, dots and underscores, anything else as an underscore."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:_NAME_BYTES]


def map_create(shape: MapShape, name: str, inner_fd: int = 0) -> int:
    """Create a map and return its descriptor; `inner_fd` is a map like those that a map of maps shall hold."""
    sizes = struct.pack("=IIIII", shape.type, shape.key_size, shape.value_size, shape.max_entries, shape.flags)
    return _bpf(_MAP_CREATE, sizes + struct.pack("=II16s", inner_fd, 0, object_name(name).encode("ascii")))


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value at `key`, or None; for a per-CPU map `value_size` covers all possible CPUs."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_size)
    try:
        _bpf(_LOOKUP, struct.pack("=I4xQQQ", fd, _address(key_buffer), _address(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


class IndexReader:
    """map_lookup for many indices of an array of 32-bit numbers: what a call needs is laid out once."""

    def __init__(self, fd: int) -> None:
        self._key = ctypes.c_uint32()
        self._value = ctypes.c_uint32()
        self._attr = struct.pack("=I4xQQQ", fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)

    def read(self, index: int) -> int | None:
        """Return the number at `index`, or None."""
        self._key.value = index
        try:
            _bpf(_LOOKUP, self._attr)
        except FileNotFoundError:
            return None
        return self._value.value


class FirstEntry:
    """map_lookup of an array's first entry, again and again: what a call needs is laid out once."""

    def __init__(self, fd: int, value_size: int) -> None:
        self._key = ctypes.c_uint32(0)
        self._value = ctypes.create_string_buffer(value_size)
        self._attr = struct.pack("=I4xQQQ", fd, ctypes.addressof(self._key), _address(self._value), 0)

    def read(self) -> bytes:
        """Return the value."""
        _bpf(_LOOKUP, self._attr)
        return self._value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Store `value` at `key`; OSError E2BIG when a hash is full."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _bpf(_UPDATE, struct.pack("=I4xQQQ", fd, _address(key_buffer), _address(value_buffer), 0))


def map_delete(fd: int, key: bytes) -> None:
    """Remove `key`; FileNotFoundError when it is not there."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    _bpf(_DELETE, struct.pack("=I4xQQQ", fd, _address(key_buffer), 0, 0))


def obj_pin(fd: int, path: str) -> None:
    """Give a map, program or link a name on bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def obj_get(path: str, *, read_only: bool = False) -> int:
    """Open what is pinned at `path`. With `read_only`, nobody who gets the descriptor can change the map or map it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, F_RDONLY if read_only else 0))


def program_by_id(program_id: int) -> int:
    """Open a program by its id. PermissionError without CAP_SYS_ADMIN, whatever else one has."""
    return _bpf(_PROG_FD_BY_ID, struct.pack("=III", program_id, 0, 0))


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, _address(info)))
    return info.raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    map_type, map_id, *sizes, name = struct.unpack_from("=IIIIII16s", _info(fd))
    return MapInfo(map_id, MapShape(map_type, *sizes), _text(name))


def program_info(fd: int) -> ProgramInfo:
    """Describe a program."""
    raw = _info(fd)
    _type, program_id, tag = struct.unpack_from("=II8s", raw)
    (loaded_at,) = struct.unpack_from("=Q", raw, 40)
    (name,) = struct.unpack_from("16s", raw, 64)
    return ProgramInfo(program_id, tag.hex(), _text(name), loaded_at)


def program_maps(fd: int) -> frozenset[int]:
    """Return the ids of the maps that a program uses."""
    ids = ctypes.create_string_buffer(4 * _PROGRAM_MAPS_MAX)
    info = ctypes.create_string_buffer(_INFO_BYTES)
    struct.pack_into("=IQ", info, 52, _PROGRAM_MAPS_MAX, _address(ids))
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, _address(info)))
    (count,) = struct.unpack_from("=I", info, 52)
    return frozenset(struct.unpack_from(f"={count}I", ids))


def same_program(one: int, other: int) -> bool:
    """Whether two programs have the same instructions and the same maps: a tag alone says nothing of the maps."""
    return program_info(one).tag == program_info(other).tag and program_maps(one) == program_maps(other)


def link_info(fd: int) -> LinkInfo:
    """Describe a link; `ifindex` is that of a TCX link."""
    _type, link_id, program_id, ifindex = struct.unpack_from("=III4xI", _info(fd))
    return LinkInfo(link_id, program_id, ifindex)


def link_create_tcx_first(program_fd: int, ifindex: int) -> int:
    """Attach at the head of the device's TCX egress hook; the link lives as long as a descriptor or a pin."""
    return _bpf(_LINK_CREATE, struct.pack("=IIIIIIQ", program_fd, ifindex, TCX_EGRESS, F_BEFORE, 0, 0, 0))


def link_create_tcx_after(program_fd: int, ifindex: int, program_id: int) -> int:
    """Do the same right behind the program with this id."""
    return _bpf(_LINK_CREATE, struct.pack("=IIIIIIQ", program_fd, ifindex, TCX_EGRESS, F_AFTER | F_ID, program_id, 0, 0))


def raw_tracepoint_open(name: str, program_fd: int) -> int:
    """Let the program run at a tracepoint, from now on and for as long as the returned link has a descriptor or a pin."""
    name_buffer = ctypes.create_string_buffer(name.encode("ascii"))
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", _address(name_buffer), program_fd))


def link_update(link_fd: int, program_fd: int) -> None:
    """Replace the link's program; no packet goes without one in between."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    """Take the program off the hook, pins or not."""
    _bpf(_LINK_DETACH, struct.pack("=I", link_fd))


def tcx_programs(ifindex: int) -> list[int]:
    """Return the ids of the programs at the device's TCX egress hook, in the order they run."""
    ids = ctypes.create_string_buffer(4 * _QUERY_MAX)
    attr = bytearray(struct.pack("=IIIIQIIQQQQ", ifindex, TCX_EGRESS, 0, 0, _address(ids), _QUERY_MAX, 0, 0, 0, 0, 0))
    try:
        _bpf(_PROG_QUERY, attr)
    except FileNotFoundError:
        return []
    (count,) = struct.unpack_from("=I", attr, 24)
    return list(struct.unpack_from(f"={count}I", ids.raw))


def program_test_run(program_fd: int, packet: bytes, context: bytes = b"", repeat: int = 1) -> TestRun:
    """Run a program over one packet that begins with an Ethernet header (at least 14 bytes).

    `context` is a struct __sk_buff of which the kernel takes mark, priority, ifindex, tstamp, wire_len, gso_segs and
    gso_size; empty for none.
    """
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = ctypes.create_string_buffer(len(packet) + 256)
    context_in = ctypes.create_string_buffer(context, len(context)) if context else None
    context_out = ctypes.create_string_buffer(len(context)) if context else None
    attr = bytearray(
        struct.pack(
            "=IIIIQQIIIIQQIII4x",
            program_fd, 0, len(packet), len(packet) + 256, _address(data_in), _address(data_out), repeat, 0,
            len(context), len(context), _address(context_in) if context_in is not None else 0,
            _address(context_out) if context_out is not None else 0, 0, 0, 0,
        )
    )  # fmt: skip
    _bpf(_PROG_TEST_RUN, attr)
    verdict, _in, size_out = struct.unpack_from("=III", attr, 4)
    (duration,) = struct.unpack_from("=I", attr, 36)
    after = context_out.raw if context_out is not None else b""
    return TestRun(verdict, data_out.raw[:size_out], after, duration)
