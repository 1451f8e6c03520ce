"""Giving up root for good (capabilities(7), prctl(2)): another user, few capabilities, and no way back."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
from collections.abc import Collection
from contextlib import suppress

from qosctl.bpf.errors import NoPermissionError, RefusedError, UsageError

CAP_NET_ADMIN = 12
_PR_GET_PDEATHSIG, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 2, 1, 4, 8
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION_3 = 0x2008_0522
_CAPABILITIES_MAX = 63


def find_user(name: str) -> pwd.struct_passwd:
    """Return whom to become. UsageError when there is no such user or it is root, NoPermissionError when we are not."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"{name}: no such user", "getent passwd") from None
    if user.pw_uid == 0:
        raise UsageError(f"{name}: becoming root gives nothing up", "--setuid nobody")
    if os.geteuid() != 0:
        raise NoPermissionError(f"becoming {name} needs root", "run it as root")
    return user


def keep_secrets() -> None:
    """Let no core file and no other process of the same user show what this one's memory holds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def drop_to(user: pwd.struct_passwd, keep: Collection[int]) -> None:
    """Become `user` with the capabilities `keep` and no others, for good: exec gives nothing back. RefusedError.

    To be called before any thread is started: capabilities are each thread's own.
    """
    died = ctypes.c_int()
    try:
        _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(died))
        for number in range(_CAPABILITIES_MAX + 1):
            with suppress(OSError):  # numbers beyond those the kernel knows
                _prctl(_PR_CAPBSET_DROP, number)
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        _prctl(_PR_SET_KEEPCAPS, 0)
        _set_capabilities(sum(1 << number for number in keep))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, died.value)  # whoever asked for it, another user's process forgets it
    except OSError as error:
        raise RefusedError(f"becoming {user.pw_name}: {error.strerror}") from error
    keep_secrets()


def _set_capabilities(mask: int) -> None:
    """Set the permitted and effective capabilities; inheritable and ambient ones are none."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(_libc.capset(header, data))


def _prctl(option: int, argument: int) -> None:
    # Variadic, and the kernel insists on zeros: all five as unsigned long.
    words = [ctypes.c_ulong(word) for word in (argument, 0, 0, 0)]
    _check(_libc.prctl(ctypes.c_int(option), *words))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_libc = ctypes.CDLL(None, use_errno=True)
