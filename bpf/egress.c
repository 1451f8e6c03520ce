/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tc-egress program as BCC loads it: gives each DTLS record of a tunnel the outer DSCP that its flow's ring and the
 * operator's policy say. Whatever is in doubt leaves as it was, under a counter that says why; always TC_ACT_UNSPEC, so
 * that everybody else's filters run after it.
 *
 * This file is all that is BCC's own way of declaring and reading maps (BCC rewrites the main file only, so the calls of
 * lookup() must stand here). STATE_DIR, DEVICE_DIR and LINK_ETHERNET come from loader.py; the maps pinned in those folders
 * were made by maps.py, with the limits of contract.h. Another loader replaces this file alone.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "contract.h"

BPF_TABLE_PINNED("array", __u32, struct control, control, 1, STATE_DIR "/control", BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array", __u32, struct policy_entry, policy, POLICY_BANKS *DSCP_COUNT, STATE_DIR "/policy",
		 BPF_F_MMAPABLE);
/* What a ring looks like; the rings themselves are made by the clients. */
BPF_F_TABLE("array", __u32, __u64, ring_template, RING_WORDS + FLOW_INFO_WORDS, BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array", __u32, union flow_slot, flow_slots, FLOW_SLOTS, STATE_DIR "/flow_slots", BPF_F_MMAPABLE);
BPF_TABLE_PINNED("array_of_maps$ring_template", __u32, int, rings, FLOW_SLOTS, STATE_DIR "/rings");
BPF_TABLE_PINNED("percpu_array", __u32, struct device_counters, counters, 1, DEVICE_DIR "/counters");

static __always_inline struct control *control_now(void)
{
	__u32 only = 0;
	return control.lookup(&only);
}

static __always_inline struct device_counters *counters_of_device(void)
{
	__u32 only = 0;
	return counters.lookup(&only);
}

static __always_inline struct policy_entry *policy_for(__u32 bank, __u32 dscp)
{
	__u32 index = (bank & (POLICY_BANKS - 1)) * DSCP_COUNT + dscp;
	return policy.lookup(&index);
}

static __always_inline const union flow_slot *flow_slot_at(__u32 at)
{
	return flow_slots.lookup(&at);
}

static __always_inline void *ring_at(__u32 at)
{
	return rings.lookup(&at);
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
