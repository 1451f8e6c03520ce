"""Let the kernel refuse a system call, as one without memory or a strict container does: a real seccomp filter.

Only for throw-away children: a filter cannot be taken off again.
"""

from __future__ import annotations

import ctypes
import struct

SENDTO, SENDMSG, RECVMSG, BPF = 44, 46, 47, 321  # x86_64
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16


def refuse_bpf(error: int, command: int | None = None) -> None:
    """Let bpf(2), or one command of it, fail with `error` from now on."""
    refuse(BPF, error, command)


def refuse(call: int, error: int, first_argument: int | None = None) -> None:
    """Let a system call fail with `error` from now on, or only where its first argument (a descriptor, say) is this."""
    program = [(_LOAD, 0, 0, _NUMBER_AT), (_JUMP_EQUAL, 0, 3 if first_argument is not None else 1, call)]
    if first_argument is not None:
        program += [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_JUMP_EQUAL, 0, 1, first_argument)]
    program += [(_RETURN, 0, 0, _ERRNO | error), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    header = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(header), 0, 0)):
        if libc.prctl(arguments[0], *(ctypes.c_ulong(value) for value in arguments[1:])) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
