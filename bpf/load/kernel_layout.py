"""What programs need to know of the running kernel's own structs, as constants for the compiler.

bcc has no CO-RE here, so the offsets are read from the kernel's BTF each time a program is built, and stand in its code.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel.btf import Btf

_X86_STACK_BYTES = 16384  # THREAD_SIZE in arch/x86/include/asm/page_64_types.h; twice that with KASAN


@functools.cache
def following() -> Mapping[str, int]:
    """Return the constants for following tunnels of others, by the name of each macro; RefusedError without BTF."""
    btf = Btf()
    return {
        "SKB_DEV": btf.offset("sk_buff", "dev"),
        "SKB_SK": btf.offset("sk_buff", "sk"),
        "SKB_HEAD": btf.offset("sk_buff", "head"),
        "SKB_DATA": btf.offset("sk_buff", "data"),
        "SKB_END": btf.offset("sk_buff", "end"),
        "SHARED_INFO_GSO_SIZE": btf.offset("skb_shared_info", "gso_size"),
        "DEVICE_NAME": btf.offset("net_device", "name"),
        "DEVICE_TYPE": btf.offset("net_device", "type"),
        "DEVICE_NAMESPACE": btf.offset("net_device", "nd_net", "net"),
        "NAMESPACE_COOKIE": btf.offset("net", "net_cookie"),
        "TASK_START_TIME": btf.offset("task_struct", "start_time"),
        **_softirq(btf),
    }


def _softirq(btf: Btf) -> Mapping[str, int]:
    """Say how a program tells that a softirq has interrupted the task that is current (follow.h)."""
    if btf.has("task_struct", "softirq_disable_cnt"):  # PREEMPT_RT
        return {"SOFTIRQ_COUNT_IN_TASK": btf.offset("task_struct", "softirq_disable_cnt")}
    if btf.has("thread_info", "preempt_count"):  # arm64, riscv
        within = btf.offset("thread_info", "preempt_count")
        return {"SOFTIRQ_COUNT_IN_TASK": btf.offset("task_struct", "thread_info") + within}
    if platform.machine() == "x86_64":
        return {"TASK_STACK": btf.offset("task_struct", "stack"), "TASK_STACK_BYTES": _X86_STACK_BYTES}
    raise RefusedError(
        f"how to tell softirqs from programs is not known on {platform.machine()}", "uname -m, and report it"
    )
