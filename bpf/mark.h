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

#include "contract.h"
#include "flows.h"
#include "parse.h"
#include "stamp.h"

static __always_inline enum outcome find_record(struct __sk_buff *skb, struct cursor *at, void **ring, __u64 *number)
{
	union flow_slot key = {};
	enum outcome result;
	__u32 payload;

	result = LINK_ETHERNET ? find_ip_ethernet(skb, at) : find_ip_raw(skb, at);
	if (result != PARSED)
		return result;
	result = at->version == 4 ? parse_ipv4(skb, at, &key) : parse_ipv6(skb, at, &key);
	if (result != PARSED)
		return result;
	result = parse_ports(skb, at, &key);
	if (result != PARSED)
		return result;
	*ring = ring_of(&key);
	if (!*ring)
		return OUTCOME_NO_FLOW;
	result = check_lengths(skb, at, &payload);
	if (result != PARSED)
		return result;
	return parse_record(skb, at, payload, number);
}

static __always_inline enum outcome mark(struct __sk_buff *skb, struct control *now, struct device_counters *counters,
					 __u32 segments)
{
	struct cursor at = {};
	struct policy_entry *entry;
	enum outcome result;
	void *ring = NULL;
	__u64 number = 0, word, *mark;
	struct dscp outer;

	result = find_record(skb, &at, &ring, &number);
	if (result != PARSED)
		return result;
	mark = word_in(ring, number);
	if (!mark)
		return OUTCOME_STALE;
	word = *(volatile __u64 *)mark;
	/* word = (low 56 bits of the number) << 8 | inner DSCP; 0 was never written */
	if (!word || (word ^ (number << 8)) >= DSCP_COUNT)
		return OUTCOME_STALE;
	entry = policy_for(now->policy_bank, word & (DSCP_COUNT - 1));
	if (!entry || entry->action != POLICY_STAMP)
		return OUTCOME_POLICY_LEAVE;
	outer.value = entry->outer_dscp & (DSCP_COUNT - 1);
	if (entry->set_priority)
		skb->priority = entry->priority;

	result = at.version == 4 ? stamp_ipv4(skb, at.ip, outer) : stamp_ipv6(skb, at.ip, outer);
	if (result == OUTCOME_STAMPED || result == OUTCOME_UNCHANGED) {
		counters->outer[outer.value].packets += segments;
		counters->outer[outer.value].bytes += skb->wire_len;
	}
	return result;
}

static __always_inline void mark_and_count(struct __sk_buff *skb)
{
	struct control *now = control_now();
	struct device_counters *counters = counters_of_device();
	enum outcome result = OUTCOME_OFF;
	__u32 segments;

	if (!now || !counters)
		return;
	segments = skb->gso_segs ? skb->gso_segs : 1;
	if (now->passtos)
		result = mark(skb, now, counters, segments);
	if (result < OUTCOME_COUNT)
		counters->outcomes[result] += segments;
}

#endif
