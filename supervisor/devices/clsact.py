"""Our filter in a device's clsact qdisc, through netlink (pyroute2)."""

from __future__ import annotations

import struct
from typing import Any

from qosctl.bpf.errors import RefusedError
from qosctl.dtls.transport import pyroute2_by_need
from qosctl.dtls.transport.rtnetlink import conversation

# Ahead of most people's filters; ours return TC_ACT_UNSPEC, so theirs run all the same. The program that marks has this
# one, and behind it comes the one of a tunnel's own device.
PRIORITY = 2
HANDLE = 0x715  # others leave it to the kernel, which counts from 1
_NAME = "qosctl"

_CLSACT_HANDLE = 0xFFFF0000  # linux/pkt_sched.h: TC_H_CLSACT
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS / TC_H_MIN_EGRESS)
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network order
_BPF_ID = 11  # TCA_BPF_ID, linux/pkt_cls.h; pyroute2 does not decode it

_ENOENT, _EEXIST, _EINVAL, _ENODEV = 2, 17, 22, 19


def has_qdisc(index: int) -> bool:
    """Whether the device has a clsact qdisc, whoever made it."""
    with conversation() as ip:
        return _has_clsact(ip, index)


def ensure_qdisc(index: int) -> bool:
    """Make the clsact qdisc; True if it was not there."""
    with conversation() as ip:
        try:
            ip.tc("add", "clsact", index)
        except pyroute2_by_need.NetlinkError as error:
            if error.code == _EEXIST and _has_clsact(ip, index):
                return False
            raise OSError(error.code, str(error)) from error
    return True


def replace_filter(index: int, program_fd: int, priority: int = PRIORITY) -> None:
    """Put the program into our filter, atomically where there is one; RefusedError where our place is taken."""
    with conversation() as ip:
        there = [entry for entry in _filters(ip, index, _EGRESS) if _in_our_place(entry, priority)]
        if not all(_is_ours(entry, priority) for entry in there):
            raise _taken(priority)
        try:
            ip.tc(
                "replace-filter" if there else "add-filter", "bpf", index, handle=HANDLE, fd=program_fd, name=_NAME,
                parent=_EGRESS, prio=priority, direct_action=True,
            )  # fmt: skip
        except pyroute2_by_need.NetlinkError as error:
            if error.code == _EEXIST:  # one that came since we looked: to replace it would be to remove it
                raise _taken(priority) from error
            raise OSError(error.code, str(error)) from error


def our_program(index: int, priority: int = PRIORITY) -> int | None:
    """Return the id of the program in our filter, or None."""
    with conversation() as ip:
        for entry in _filters(ip, index, _EGRESS):
            if _is_ours(entry, priority):
                return _program_id(entry.get_attr("TCA_OPTIONS"))
    return None


def filters_ahead(index: int, priority: int = PRIORITY) -> list[str]:
    """Describe others' egress filters that run before ours: those of a lower priority number."""
    with conversation() as ip:
        ahead = [entry for entry in _filters(ip, index, _EGRESS) if entry["info"] >> 16 < priority and entry["handle"]]
    ahead = [entry for entry in ahead if not _is_ours(entry, PRIORITY)]
    return [f"filter of kind {entry.get_attr('TCA_KIND')}, priority {entry['info'] >> 16}" for entry in ahead]


def delete_filter(index: int, priority: int = PRIORITY) -> None:
    """Delete our filter; nothing there is fine."""
    if our_program(index, priority) is None:
        return
    with conversation() as ip:
        try:
            info = priority << 16 | _ALL_PROTOCOLS
            ip.tc("del-filter", "bpf", index, handle=HANDLE, parent=_EGRESS, prio=priority, info=info)
        except pyroute2_by_need.NetlinkError as error:
            if error.code not in (_ENOENT, _EINVAL, _ENODEV):
                raise OSError(error.code, str(error)) from error


def delete_qdisc_if_empty(index: int) -> None:
    """Delete the clsact qdisc unless a filter, of either direction, is in it."""
    with conversation() as ip:
        if not _has_clsact(ip, index) or _filters(ip, index, _EGRESS) or _filters(ip, index, _INGRESS):
            return
        ip.tc("del", "clsact", index)


def _taken(priority: int) -> RefusedError:
    place = f"priority {priority}, handle {HANDLE:#x}"
    return RefusedError(f"somebody else's egress filter has {place}", "tc filter show dev DEVICE egress")


def _in_our_place(entry: Any, priority: int) -> bool:
    return bool(entry["handle"] == HANDLE and entry["info"] >> 16 == priority)


def _is_ours(entry: Any, priority: int) -> bool:
    options = entry.get_attr("TCA_OPTIONS")
    named = options is not None and entry.get_attr("TCA_KIND") == "bpf" and options.get_attr("TCA_BPF_NAME") == _NAME
    return named and _in_our_place(entry, priority)


def _has_clsact(ip: pyroute2_by_need.IPRoute, index: int) -> bool:
    return any(
        qdisc["handle"] == _CLSACT_HANDLE and qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in ip.get_qdiscs(index)
    )


def _filters(ip: pyroute2_by_need.IPRoute, index: int, parent: int) -> list[Any]:
    try:
        return list(ip.get_filters(index=index, parent=parent))
    except pyroute2_by_need.NetlinkError as error:
        if error.code in (_ENOENT, _EINVAL, _ENODEV):
            return []
        raise OSError(error.code, str(error)) from error


def _program_id(options: Any) -> int | None:
    for name, attribute in options["attrs"]:
        if name == "UNKNOWN" and attribute["header"]["type"] == _BPF_ID:
            raw = attribute.data[attribute.offset : attribute.offset + attribute.length]
            (program_id,) = struct.unpack_from("=I", raw, 4)
            return int(program_id)
    return None
