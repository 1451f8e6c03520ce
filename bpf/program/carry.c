/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * At the egress of a WireGuard device that is followed: puts each packet's class into its hash (carried.h), and tells the
 * program at the egress of the outer device from which port this device sends.
 *
 * The port is read from the device itself, for each packet: one that is given another port is known by it from the first
 * packet on, with no process of ours about, and nobody who takes the old one is taken for it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "stamp.h"
#include "carried.h"

#define READ(into, at) bpf_probe_read_kernel(&(into), sizeof(into), (const void *)(at))

/* The verifier lets pointers be subtracted, and nothing else, to get at the address. */
static __always_inline __u64 address_of(struct __sk_buff *skb)
{
	const void *task = bpf_get_current_task_btf();
	__u64 distance = (__u64)skb - (__u64)task;

	asm volatile("" : "+r"(distance));
	return distance + bpf_get_current_task();
}

static __always_inline void learn_port(struct __sk_buff *skb, struct carried *carried)
{
	__u32 *known = &carried->port_of[skb->ifindex & (CARRIERS - 1)];
	__u64 device, namespace, cookie;
	__u16 port;

	if (READ(device, address_of(skb) + SKB_DEV) || READ(port, device + WIREGUARD_PORT))
		return;
	if (*known != port) {
		if (READ(namespace, device + WIREGUARD_NAMESPACE) || READ(cookie, namespace + NAMESPACE_COOKIE))
			return;
		*known = cookie == NAMESPACE ? port : PORT_ELSEWHERE;
	}
	if (*known == port && carried->device_at[port] != skb->ifindex)
		carried->device_at[port] = skb->ifindex;
}

static __always_inline void carry(struct __sk_buff *skb)
{
	struct control *control = control_now();
	struct carried *carried = carried_now();
	struct device_counters *counters = counters_of_device();
	__u32 version, dscp, hash;
	const __u16 *ip;
	__u16 copy, first;

	if (!control || !control->passtos || !carried || !counters)
		return;
	ip = header(skb, 0, &copy, sizeof(copy));
	if (!ip)
		return;
	first = bpf_ntohs(*ip);
	version = first >> 12;
	if (version != 4 && version != 6)
		return;
	dscp = dscp_of(version == 4 ? traffic_class_ipv4(first) : traffic_class_ipv6(first)).value & (DSCP_COUNT - 1);
	learn_port(skb, carried);
	hash = carried_hash(bpf_get_hash_recalc(skb), dscp, skb->ifindex);
	carried->given_at[carried_code(hash >> CARRIED_LOW_BITS, dscp)] = carried_tick();
	bpf_set_hash(skb, hash);
	counters->outer[dscp].packets += skb->gso_segs ? skb->gso_segs : 1;
	counters->outer[dscp].bytes += skb->wire_len;
}

int qosctl_carry(struct __sk_buff *skb)
{
	carry(skb);
	return TC_ACT_UNSPEC;
}
