"""Giving up root for good (capabilities(7), prctl(2)): another user, few capabilities or none, and no way back."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
from collections.abc import Collection
from contextlib import suppress

from qosctl.bpf.errors import NoPermissionError, RefusedError, UsageError

_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_KILL, _CAP_SETGID, _CAP_SETUID = 0, 1, 3, 5, 6, 7
_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_BPF = 10, 12, 13, 39
HELPERS = frozenset(
    {
        _CAP_NET_ADMIN,  # the device, routes and rules, buffers of sockets, maps
        _CAP_BPF,  # the flow's ring and its entry
        # For what vpnc-script and its hooks run: files of others (a resolv.conf of systemd-resolved's, say), signals to
        # their daemons, commands as a user, and a resolver that a hook starts.
        *(_CAP_DAC_OVERRIDE, _CAP_CHOWN, _CAP_FOWNER, _CAP_KILL, _CAP_SETGID, _CAP_SETUID),
        *(_CAP_NET_BIND_SERVICE, _CAP_NET_RAW),
    }
)
"""What a helper keeps."""
LOOKERS = frozenset({_CAP_NET_ADMIN, _CAP_NET_BIND_SERVICE})
"""What the process that answers scrapes keeps: it asks which program is at a hook, and may use a port below 1024."""
_PR_GET_PDEATHSIG, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 2, 1, 4
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION_3 = 0x2008_0522
_CAPABILITY_DATA = struct.Struct("=6I")  # effective, permitted, inheritable; then the same for numbers from 32 on
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


def drop(user: pwd.struct_passwd | None) -> None:
    """Keep no capability, for good: exec gives nothing back. Become `user`, or stay who we are. RefusedError.

    To be called before any thread is started: capabilities are each thread's own.
    """
    died = ctypes.c_int()
    try:
        _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(died))
        _bound(frozenset())
        if user is not None:
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        _set_capabilities(0, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, died.value)  # whoever asked for it, another user's process forgets it
    except OSError as error:
        raise RefusedError(f"giving up root: {error.strerror}") from error
    keep_secrets()


def limit(keep: Collection[int]) -> None:
    """Keep of our capabilities only these, for good, and what we run gets no others. OSError.

    To be called before any thread is started.
    """
    _bound(frozenset(keep))
    permitted, inheritable = _capabilities()
    mask = sum(1 << number for number in keep)
    _set_capabilities(permitted & mask, inheritable & mask)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _bound(keep: frozenset[int]) -> None:
    """Take the others out of the bounding set, where we may: what is not in it, no exec gives."""
    for number in range(_CAPABILITIES_MAX + 1):
        if number not in keep:
            with suppress(OSError):  # numbers beyond those the kernel knows; and who lacks CAP_SETPCAP has no_new_privs
                _prctl(_PR_CAPBSET_DROP, number)


def _capabilities() -> tuple[int, int]:
    """Return the permitted and the inheritable capabilities."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(_CAPABILITY_DATA.size)
    _check(_libc.capget(header, data))
    _, permitted, inheritable, _, permitted_high, inheritable_high = _CAPABILITY_DATA.unpack(
        data.raw[: _CAPABILITY_DATA.size]
    )
    return permitted | permitted_high << 32, inheritable | inheritable_high << 32


def _set_capabilities(permitted: int, inheritable: int) -> None:
    """Set what is permitted, which is effective too, and what is inheritable; ambient ones follow."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    halves = [(mask & 0xFFFF_FFFF, mask >> 32) for mask in (permitted, permitted, inheritable)]
    low, high = zip(*halves, strict=True)
    _check(_libc.capset(header, ctypes.create_string_buffer(_CAPABILITY_DATA.pack(*low, *high))))


def _prctl(option: int, argument: int) -> None:
    # Variadic, and the kernel insists on zeros: all five as unsigned long.
    words = [ctypes.c_ulong(word) for word in (argument, 0, 0, 0)]
    _check(_libc.prctl(ctypes.c_int(option), *words))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_libc = ctypes.CDLL(None, use_errno=True)
