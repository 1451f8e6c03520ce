/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way of a packet: switch, flow, record, mark, policy, stamp, count.
 *
 * Whoever includes this has defined, for its own kind of maps: control_now(), counters_of_device(), policy_for(),
 * flow_slot_at(), ring_at() and word_in(); and LINK_ETHERNET, 1 where packets on the device begin with an Ethernet header, 0 where
 * they begin with IP.
 */
#ifndef QOSCTL_MARK_H
#define QOSCTL_MARK_H

#include "abi.h"
#include "flow_table.h"
#include "parse.h"
#include "stamp.h"
#ifdef FOLLOWING
#include "follow.h"
#endif
#ifdef CARRYING
#include "carried.h"
#endif

/* The class that the client of a flow of ours has noted for the record in this datagram; in `dscp` if the answer is PARSED. */
static __always_inline enum outcome class_by_record(struct __sk_buff *skb, struct cursor *at, void *ring, __u32 *dscp)
{
	enum outcome result;
	__u64 number, word, *mark;
	__u32 payload;

	result = check_lengths(skb, at, &payload);
	if (result != PARSED)
		return result;
	result = parse_record(skb, at, payload, &number);
	if (result != PARSED)
		return result;
	mark = word_in(ring, number);
	if (!mark)
		return OUTCOME_NO_MARK;
	word = *(volatile __u64 *)mark;
	/* word = (low 56 bits of the number) << 8 | inner DSCP; 0 was never written */
	if (!word || (word ^ (number << 8)) >= DSCP_COUNT)
		return OUTCOME_NO_MARK;
	*dscp = word;
	return PARSED;
}

/* What the policy makes of an inner class. `version` is a constant, and with it the way the packet is written. */
static __always_inline enum outcome apply_policy(struct __sk_buff *skb, struct control *control, struct cursor *at,
						 __u8 version, __u32 dscp, struct dscp *outer)
{
	struct policy_entry *entry = policy_for(control->policy_bank, dscp & (DSCP_COUNT - 1));

	if (!entry || entry->action != POLICY_STAMP)
		return OUTCOME_POLICY_LEAVE;
	outer->value = entry->outer_dscp & (DSCP_COUNT - 1);
	if (entry->set_priority)
		skb->priority = entry->priority;
	return version == 4 ? stamp_ipv4(skb, at->ip, *outer) : stamp_ipv6(skb, at->ip, *outer);
}

/*
 * From the UDP header on. Told of each IP version apart: one body for both keeps more alive than the processor has
 * registers, which costs a hit 2 ns.
 */
static __always_inline enum outcome mark_datagram(struct __sk_buff *skb, struct control *control, struct cursor *at,
						  union flow_slot *key, __u8 version, struct dscp *outer)
{
	enum outcome result;
	__u32 dscp;
	void *ring;

	result = parse_ports(skb, at, key);
	if (result != PARSED)
		return result;
	ring = ring_of(key);
	if (!ring)
		return OUTCOME_NO_FLOW;
	result = class_by_record(skb, at, ring, &dscp);
	return result != PARSED ? result : apply_policy(skb, control, at, version, dscp, outer);
}

#ifdef FOLLOWING
/* The second look at what is no datagram of a flow: for both IP versions at once, since there is enough of it. */
static __always_inline enum outcome mark_followed(struct __sk_buff *skb, struct control *control, struct cursor *at,
						  enum outcome result, struct dscp *outer)
{
	struct read_queue *sender = NULL;
	__u32 dscp;

	/*
	 * What came in by a device is sent by no task. It may leave in one all the same, and on its stack: whoever writes a packet
	 * to a TUN forwards it in that very call (tun_rx_batched() in drivers/net/tun.c). It would take the mark of what he has read.
	 */
	if (skb->ingress_ifindex)
		return result;
	if (result == OUTCOME_NOT_UDP || result == OUTCOME_FRAGMENT)
		doubt_sender(control);
	if (result != OUTCOME_NO_FLOW)
		return result;
	result = class_by_read(skb, control, at, &dscp, &sender);
	if (result == PARSED)
		result = at->version == 4 ? apply_policy(skb, control, at, 4, dscp, outer)
					  : apply_policy(skb, control, at, 6, dscp, outer);
	if (sender)
		note_window(sender, result == OUTCOME_STAMPED || result == OUTCOME_UNCHANGED ? outer->value : DSCP_COUNT);
	return result;
}
#endif

#ifdef CARRYING
/* The look at what is no datagram of a flow of ours, where tunnels of the kernel are followed. */
static __always_inline enum outcome mark_carried(struct __sk_buff *skb, struct control *control, struct cursor *at,
						 union flow_slot *key, struct dscp *outer)
{
	enum outcome result;
	__u32 dscp;

	result = class_by_hash(skb, at, key->source_port, &dscp);
	if (result != PARSED)
		return result;
	return at->version == 4 ? apply_policy(skb, control, at, 4, dscp, outer)
				: apply_policy(skb, control, at, 6, dscp, outer);
}
#endif

/* `outer` is what the packet carries now, if the answer is OUTCOME_STAMPED or OUTCOME_UNCHANGED. */
static __always_inline enum outcome mark(struct __sk_buff *skb, struct control *control, struct dscp *outer)
{
	union flow_slot key = {};
	struct cursor at = {};
	enum outcome result;

	result = LINK_ETHERNET ? find_ip_ethernet(skb, &at) : find_ip_raw(skb, &at);
	if (result != PARSED)
		return result;
	if (at.version == 4) {
		result = parse_ipv4(skb, &at, &key);
		if (result == PARSED)
			result = mark_datagram(skb, control, &at, &key, 4, outer);
	} else {
		result = parse_ipv6(skb, &at, &key);
		if (result == PARSED)
			result = mark_datagram(skb, control, &at, &key, 6, outer);
	}
#ifdef CARRYING
	if (result == OUTCOME_NO_FLOW)
		result = mark_carried(skb, control, &at, &key, outer);
#endif
#ifdef FOLLOWING
	result = mark_followed(skb, control, &at, result, outer);
#endif
	return result;
}

static __always_inline void mark_and_count(struct __sk_buff *skb)
{
	struct control *control = control_now();
	struct device_counters *counters;
	enum outcome result = OUTCOME_OFF;
	struct dscp outer = {};
	__u32 segments;

	if (!control)
		return;
	if (control->passtos)
		result = mark(skb, control, &outer);
	counters = counters_of_device();
	if (!counters || result >= OUTCOME_SLOTS)
		return;
	segments = skb->gso_segs ? skb->gso_segs : 1;
	/*
	 * Plain adds, for an atomic one would cost more than the rest of counting. Whoever transmits has softirqs off, so nobody
	 * else counts on this CPU meanwhile. With PREEMPT_RT that took the lock behind local_bh_disable(); kernels built without
	 * it (CONFIG_PREEMPT_RT_NEEDS_BH_LOCK, from 6.18) may preempt us here: then a count is lost, never a packet or a mark.
	 */
	counters->outcomes[result] += segments;
	if (result == OUTCOME_STAMPED || result == OUTCOME_UNCHANGED) {
		outer.value &= DSCP_COUNT - 1; /* known, but not to the verifier */
		counters->outer[outer.value].packets += segments;
		counters->outer[outer.value].bytes += skb->wire_len;
	}
}

#endif
