"""Let the kernel refuse a system call, as one without memory or a strict container does: a real seccomp filter.

Only for throw-away children: a filter cannot be taken off again.
"""

from __future__ import annotations

import seccomp


def refuse(call: str, error: int, first_argument: int | None = None) -> None:
    """Let a system call fail with `error` from now on, or only where its first argument (a descriptor, say) is this."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    where = [] if first_argument is None else [seccomp.Arg(0, seccomp.EQ, first_argument)]
    rules.add_rule(seccomp.ERRNO(error), call, *where)
    rules.load()
