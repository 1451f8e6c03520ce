"""What programs need to know of the running kernel's own structs, as constants for the compiler.

bcc has no CO-RE here, so the offsets are read from the kernel's BTF each time a program is built, and stand in its code.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path

from qosctl.bpf.errors import RefusedError
from qosctl.bpf.kernel.btf import Btf

_WIREGUARD = Path("/sys/kernel/btf/wireguard")
_PRIVATE_ALIGNED_TO = 32  # NETDEV_ALIGN in linux/netdevice.h
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


@functools.cache
def wireguard() -> Mapping[str, int]:
    """Return the constants for following WireGuard, by the name of each macro.

    RefusedError where the kernel does not describe its WireGuard: no BTF, or another one than is known.
    """
    kernel = Btf()
    described = kernel if not _WIREGUARD.exists() else Btf(_WIREGUARD, base=kernel)  # or it is no module
    private = -(-kernel.size("net_device") // _PRIVATE_ALIGNED_TO) * _PRIVATE_ALIGNED_TO  # netdev_priv()
    return {
        "SKB_DEV": kernel.offset("sk_buff", "dev"),
        "NAMESPACE_COOKIE": kernel.offset("net", "net_cookie"),
        "WIREGUARD_PORT": private + described.offset("wg_device", "incoming_port"),
        "WIREGUARD_NAMESPACE": private + described.offset("wg_device", "creating_net"),
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
