"""A tunnel of the kernel's kind, without its cryptography, for kernels without WireGuard: both programs are the real ones.

    packet -> tun0: carry.c, then a stand-in for WireGuard -> tun1: egress.c -> what is read there

What goes into tun0 is a datagram as WireGuard would send it. The stand-in does to it what WireGuard does at its end: mark
and priority are cleared, the outer DSCP is 0, and the hash stays. tun0's MTU is where carry.c looks for the UDP port.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from qosctl.bpf.abi import FLOW_HASH_FIRST, FollowWay
from qosctl.bpf.kernel import bpffs, netns, syscall
from qosctl.bpf.kernel.btf import Btf
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.load.loader import LOADER
from qosctl.bpf.maps import counters
from qosctl.bpf.maps.counters import DeviceCounters
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.following import Carried, follow_pins, open_carried
from qosctl.bpf.maps.namespace_maps import State, create_state, folder, open_state
from qosctl.bpf.outcome import Outcome
from qosctl.supervisor.devices import tunnel_kinds

from tests.lab import Namespace
from tests.lab.packets import ipv4, ipv6, udp
from tests.lab.program import changed_sources
from tests.lab.tun_program import TunDevice

INNER, OUTER = "tun0", "tun1"
PORT = 1420
_ETH_P = {4: 0x0800, 6: 0x86DD}
_STAND_IN = """
int qosctl_egress(struct __sk_buff *skb)
{
	__u8 first, zero = 0, six = 0x60;

	skb->mark = 0;
	skb->priority = 0;
	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return 2;
	if (first >> 4 == 4)
		bpf_skb_store_bytes(skb, 1, &zero, 1, 0);
	else {
		bpf_skb_store_bytes(skb, 0, &six, 1, 0);
		bpf_skb_store_bytes(skb, 1, &zero, 1, 0);
	}
	return bpf_redirect(OUTER_INDEX, 0);
}
"""


@dataclass(frozen=True)
class Left:
    """What became of one packet: the DSCP it left with, its ECN, and the outcome it was counted with."""

    dscp: int
    ecn: int
    outcome: Outcome


@dataclass(frozen=True)
class CarrierProgram:
    """The two devices and the programs at their egress, with passtos on."""

    state: State
    carried: Carried
    inner: TunDevice
    outer: TunDevice
    outer_counters: int

    @property
    def index(self) -> int:
        """The interface index of the inner device."""
        return socket.if_nametoindex(INNER)

    @property
    def outer_index(self) -> int:
        """The interface index of the outer device."""
        return socket.if_nametoindex(OUTER)

    def inner_counters(self) -> DeviceCounters:
        """What has gone into the tunnel."""
        return pins_of(self.index, inner=True).read_counters()

    def send(self, packet: bytes, *, past_the_tunnel: bool = False) -> Left:
        """Let a packet leave through the tunnel, or by the outer device alone."""
        before = counters.read(self.outer_counters)
        version = packet[0] >> 4
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
            out.sendto(packet, (OUTER if past_the_tunnel else INNER, _ETH_P[version]))
        left = self.outer.read()
        after = counters.read(self.outer_counters)
        ((outcome, _),) = [(o, n) for o in Outcome if (n := after.outcomes[o] - before.outcomes[o])]
        byte = left[1] if version == 4 else int.from_bytes(left[:2]) >> 4 & 0xFF
        return Left(byte >> 2, byte & 3, outcome)


def message(payload: bytes = bytes(48), *, kind: int = 4, reserved: bytes = bytes(3)) -> bytes:
    """A message of WireGuard's: by default one of data that holds a packet."""
    return bytes([kind]) + reserved + payload


def datagram(
    tos: int, *, version: int = 4, source: int = PORT, destination: int = 51820, payload: bytes | None = None
) -> bytes:
    """A datagram from WireGuard's port, marked as the packet inside it was."""
    whole = udp(message() if payload is None else payload, source=source, destination=destination)
    return ipv4(whole, traffic_class=tos) if version == 4 else ipv6(whole, traffic_class=tos)


def carried_hash(flow: int, dscp: int, device: int) -> int:
    """The words of carried.h, once more."""
    mixed = (flow << 16 | device & 0xFFFF) * FLOW_HASH_FIRST >> 40 & 0xFFFFF
    return flow << 20 | (dscp << 14 ^ mixed)


def layout() -> dict[str, int]:
    """In place of kernel_layout.wireguard(): the MTU of any device is the port, its own namespace that of the socket."""
    btf = Btf()
    return {
        "SKB_DEV": btf.offset("sk_buff", "dev"),
        "NAMESPACE_COOKIE": btf.offset("net", "net_cookie"),
        "WIREGUARD_PORT": btf.offset("net_device", "mtu"),
        "WIREGUARD_NAMESPACE": btf.offset("net_device", "nd_net", "net"),
    }


@contextmanager
def tuns_are_carriers(namespace_at: int = 0) -> Iterator[None]:
    """Have commands of this process take TUN devices for WireGuard's: all else is as it is there.

    The socket's namespace is believed to be this one, or another one with anything else than 0 added to where it is read.
    """
    with pytest.MonkeyPatch.context() as kinds:
        kinds.setattr(tunnel_kinds, "_CARRYING", "tun")
        known = layout()
        known["NAMESPACE_COOKIE"] += namespace_at
        kinds.setattr(kernel_layout, "wireguard", lambda: known)
        yield


@contextmanager
def carrier_program() -> Iterator[CarrierProgram]:
    """Build it in a namespace of its own."""
    with ExitStack() as stack:
        namespace = stack.enter_context(Namespace("carrier"))
        stack.enter_context(namespace.entered())
        bpffs.ROOT.mkdir(exist_ok=True)
        create_state()
        stack.callback(bpffs.remove_tree, folder())
        devices = [TunDevice(INNER, 0), TunDevice(OUTER, 1)]
        for device in devices:
            stack.callback(device.close)
        subprocess.run(["ip", "link", "set", INNER, "mtu", str(PORT)], check=True)
        follow_pins().create()
        follow_pins().provide(FollowWay.HASH)
        inner, outer = (socket.if_nametoindex(device.name) for device in devices)
        for index, name, within in ((inner, INNER, True), (outer, OUTER, False)):
            pins_of(index, inner=within).create(name)
        carry = LOADER.load_carry(folder(), pins_of(inner, inner=True).path, netns.cookie())
        mark = LOADER.load(folder(), pins_of(outer).path, ethernet=False)
        _at_egress(INNER, carry, _stand_in(outer))
        _at_egress(OUTER, mark)
        outer_counters = syscall.obj_get(str(pins_of(outer).counters))
        stack.callback(os.close, outer_counters)
        state = stack.enter_context(open_state())
        carried = stack.enter_context(open_carried())
        for device in devices:
            device.drain()
        state.control.passtos = True
        yield CarrierProgram(state, carried, devices[0], devices[1], outer_counters)


def _stand_in(outer: int) -> int:
    with changed_sources() as sources:
        (sources / "egress.c").write_text(_STAND_IN.replace("OUTER_INDEX", str(outer)))
        return BccLoader(sources).load(Path("/nowhere"), Path("/nowhere"), ethernet=False)


def _at_egress(device: str, *programs: int) -> None:
    """Let these run there, one after the other."""
    subprocess.run(["tc", "qdisc", "add", "dev", device, "clsact"], check=True)
    for priority, program in enumerate(programs, 1):
        pin = bpffs.MOUNT_POINT / f"carrier-{os.getpid()}-{device}-{priority}"
        syscall.obj_pin(program, str(pin))
        os.close(program)
        words = f"dev {device} egress prio {priority} bpf direct-action object-pinned {pin}"
        subprocess.run(["tc", "filter", "add", *words.split()], check=True)
        pin.unlink()
