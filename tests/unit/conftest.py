"""What is in this folder needs neither root nor a kernel that takes our program.

It stays so by itself: whoever runs them, each of these tests runs as an ordinary user.
"""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_NOBODY = 65534
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
_DATA = struct.Struct("=6I")  # effective, permitted, inheritable; then the same for numbers from 32 on

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def as_an_ordinary_user() -> Iterator[None]:
    """Give up root for the time of one test; only reading goes on, for a checkout that nobody else can read."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)  # and the kernel takes all effective capabilities
    try:
        _add_effective(_CAP_DAC_READ_SEARCH)
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def tmp_path(as_an_ordinary_user: None) -> Iterator[Path]:
    """Give the test a folder of that user's: pytest's own would be root's."""
    del as_an_ordinary_user
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _add_effective(number: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(_DATA.size)
    _check(_libc.capget(header, data))
    effective, *rest = _DATA.unpack(data.raw[: _DATA.size])
    _check(_libc.capset(header, ctypes.create_string_buffer(_DATA.pack(effective | 1 << number, *rest))))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
