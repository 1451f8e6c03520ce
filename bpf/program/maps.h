/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The maps, as BCC reaches them. They are declared nowhere: BCC opens pinned ones by their ids, for which the kernel wants
 * CAP_SYS_ADMIN. bcc.py opens them by their pins and hands over descriptors, *_MAP; their limits are abi.h's. This file and
 * the entry functions are all that is BCC's own: another loader replaces them.
 */
#ifndef QOSCTL_MAPS_H
#define QOSCTL_MAPS_H

#include "abi.h"

/* bpf_pseudo_fd() is BCC's name for the load of a map's address; the kernel puts it in for the descriptor. */
#define MAP(descriptor) ((void *)bpf_pseudo_fd(BPF_PSEUDO_MAP_FD, descriptor))

static __always_inline struct control *control_now(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(CONTROL_MAP), &only);
}

#ifdef COUNTERS_MAP
static __always_inline struct device_counters *counters_of_device(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(COUNTERS_MAP), &only);
}
#endif

#ifdef POLICY_MAP
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
#endif

#ifdef QUEUES_MAP
static __always_inline const struct follow_pattern *pattern_at(__u32 at)
{
	return bpf_map_lookup_elem(MAP(PATTERNS_MAP), &at);
}

static __always_inline struct follow_counters *follow_counters_of(__u32 pattern)
{
	return bpf_map_lookup_elem(MAP(READS_MAP), &pattern);
}

/* By the address of the task's struct, which is no number that user space knows. */
static __always_inline struct read_queue *queue_of(const void **task)
{
	return bpf_map_lookup_elem(MAP(QUEUES_MAP), task);
}

static __always_inline struct read_queue *empty_queue(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(EMPTY_QUEUE_MAP), &only);
}

static __always_inline void put_queue(const void **task, struct read_queue *queue)
{
	bpf_map_update_elem(MAP(QUEUES_MAP), task, queue, BPF_ANY);
}
#endif

#ifdef CARRIED_MAP
static __always_inline struct carried *carried_now(void)
{
	__u32 only = 0;
	return bpf_map_lookup_elem(MAP(CARRIED_MAP), &only);
}
#endif

#endif
