/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tc-egress program as BCC loads it: gives each DTLS record of a tunnel the outer DSCP that its flow's ring and the
 * operator's policy say. Whatever is in doubt leaves as it was, under a counter that says why; always TC_ACT_UNSPEC, so
 * that everybody else's filters run after it.
 *
 * This file is all that is BCC's own. It declares no maps: BCC opens pinned ones by their ids, for which the kernel wants
 * CAP_SYS_ADMIN. bcc.py opens them by their pins and hands over descriptors, *_MAP, and LINK_ETHERNET; their limits are
 * abi.h's. Another loader replaces this file alone.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"

/* bpf_pseudo_fd() is BCC's name for the load of a map's address; the kernel puts it in for the descriptor. */
#define MAP(descriptor) ((void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, descriptor))

static __always_inline struct control *control_now(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(CONTROL_MAP), &only);
}

static __always_inline struct device_counters *counters_of_device(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(COUNTERS_MAP), &only);
}

static __always_inline struct policy_entry *policy_for(__u32 bank, __u32 dscp)
{
	__u32 index = (bank & (POLICY_BANKS - 1)) * DSCP_COUNT + dscp;
	return bpf_map_lookup_elem(MAP(POLICY_MAP), &index);
}

static __always_inline const union flow_slot *flow_slot_at(__u32 at)
{
	return bpf_map_lookup_elem(MAP(FLOW_SLOTS_MAP), &at);
}

static __always_inline void *ring_at(__u32 at)
{
	return bpf_map_lookup_elem(MAP(RINGS_MAP), &at);
}

static __always_inline __u64 *word_in(void *ring, __u64 number)
{
	__u32 index = number & (RING_WORDS - 1);
	return bpf_map_lookup_elem(ring, &index);
}

#include "mark.h"

int qosctl_egress(struct __sk_buff *skb)
{
	mark_and_count(skb);
	return TC_ACT_UNSPEC;
}
