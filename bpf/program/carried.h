/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The class of a packet, carried in its own hash through a tunnel of the kernel's: from the inner device's egress, where
 * carry.c puts it in, to the egress of the device by which the packet leaves, encrypted.
 *
 * It is the same sk_buff there and here, or a segment of it. WireGuard clears what it can of it (wg_reset_packet() in
 * drivers/net/wireguard/queueing.h): mark, priority, cb, the device it came in by. The hash stays, for fair queueing; and
 * iptunnel_xmit() in net/ipv4/ip_tunnel_core.c leaves one alone that is of layer 4, as bpf_set_hash() makes it.
 *
 *     hash:  flow (12 bits) | class (6) and check (14), all mixed with flow and device (20)
 *
 * Fair queueing looks at the upper bits (fq_codel), or at the lower ones (CAKE): flows stay apart in both, and the packets of
 * one flow and class together.
 *
 * One other packet in 16,384 passes the check by chance. So a packet has to come from the port of a device that is followed,
 * too, and its code must have been given to a packet lately: another device's flow has such a code once in billions of times.
 */
#ifndef QOSCTL_CARRIED_H
#define QOSCTL_CARRIED_H

#include "abi.h"
#include "maps.h"
#include "parse.h"

/* Times are in ticks of 2^27 ns, 0.13 s. */
#define CARRIED_TICK_SHIFT 27
/* A packet waits so many ticks at most, two minutes: WireGuard drops what no handshake has let go for 90 seconds. */
#define CODE_LIFETIME 894

#define CARRIED_LOW_BITS (32 - CARRIED_FLOW_BITS)
#define CARRIED_LOW_MASK ((1U << CARRIED_LOW_BITS) - 1)
#define CARRIED_CLASS_SHIFT (CARRIED_LOW_BITS - 6)

/* The first four bytes of WireGuard's messages, the type and three zeros, and how long the one is that carries nothing. */
#define WIREGUARD_DATA bpf_htonl(4U << 24)
#define WIREGUARD_KEEPALIVE_BYTES 32

static __always_inline __u16 carried_tick(void)
{
	__u16 tick = bpf_ktime_get_coarse_ns() >> CARRIED_TICK_SHIFT;

	return tick ? tick : 1;
}

/* What class and check are mixed with: bits that depend on all of the flow's bits, and on the device. */
static __always_inline __u32 carried_mix(__u32 flow, __u32 device)
{
	return ((__u64)(flow << 16 | (device & (CARRIERS - 1))) * FLOW_HASH_FIRST) >> 40 & CARRIED_LOW_MASK;
}

/* What is sure to lie below `count`, a power of two, and known to the compiler only: to the verifier, too (Linux 6.1). */
static __always_inline __u32 bounded(__u32 index, __u32 count)
{
	asm volatile("" : "+r"(index));
	return index & (count - 1);
}

static __always_inline __u32 carried_code(__u32 flow, __u32 dscp)
{
	return bounded(flow << 6 | dscp, CARRIED_CODES);
}

/* The hash of a packet of this class that had `hash`, on this device. */
static __always_inline __u32 carried_hash(__u32 hash, __u32 dscp, __u32 device)
{
	__u32 flow = hash >> CARRIED_LOW_BITS;

	return flow << CARRIED_LOW_BITS | ((dscp << CARRIED_CLASS_SHIFT) ^ carried_mix(flow, device));
}

/* The class that the packet's hash carries, in `dscp` if the answer is PARSED; NO_FLOW for what is no followed device's. */
static __always_inline enum outcome class_by_hash(struct __sk_buff *skb, struct cursor *at, __be16 source_port, __u32 *dscp)
{
	__u32 port = bounded(bpf_ntohs(source_port), UDP_PORTS), hash, flow, low, payload, device;
	const struct carried *carried = carried_now();
	enum outcome result;
	const __u32 *type;
	__u32 copy;
	__u16 given;

	if (!carried)
		return OUTCOME_NO_FLOW;
	device = carried->device_at[port];
	if (!device)
		return OUTCOME_NO_FLOW;
	/* What came in by a device is another machine's or namespace's, and may well have the same port. */
	if (skb->ingress_ifindex || carried->port_of[device & (CARRIERS - 1)] != port)
		return OUTCOME_NO_FLOW;
	result = check_lengths(skb, at, &payload);
	if (result != PARSED)
		return result;
	type = header(skb, at->udp + sizeof(struct udphdr), &copy, sizeof(copy));
	if (!type || *type != WIREGUARD_DATA || payload <= WIREGUARD_KEEPALIVE_BYTES)
		return OUTCOME_NOT_DATA;
	hash = skb->hash;
	flow = hash >> CARRIED_LOW_BITS;
	low = (hash & CARRIED_LOW_MASK) ^ carried_mix(flow, device);
	if (low & ((1U << CARRIED_CLASS_SHIFT) - 1))
		return OUTCOME_NO_MARK;
	*dscp = low >> CARRIED_CLASS_SHIFT;
	given = carried->given_at[carried_code(flow, *dscp)];
	if (!given || (__u16)(carried_tick() - given) > CODE_LIFETIME)
		return OUTCOME_NO_MARK;
	return PARSED;
}

#endif
