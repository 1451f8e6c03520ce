/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finding a flow: open addressing over two arrays, `flow_slots` with the five-tuples and `rings` with their memory.
 *
 * Array lookups are a few instructions in line, where a hash map costs a call, its hash and a memcmp: all UDP packets that
 * are no tunnel's pay for it. flows.py, the only writer, keeps each flow within FLOW_PROBES slots of its home, and stores
 * the word with the state last, so that a half-written flow is never found.
 */
#ifndef QOSCTL_FLOWS_H
#define QOSCTL_FLOWS_H

#include "abi.h"

/* Multiplicative hashing: the high bits depend on all bits of the key. Mirrored by flow_key.py. */
static __always_inline __u32 flow_home(const union flow_slot *key)
{
	__u64 mix = (key->words[0] + key->words[1]) * FLOW_HASH_FIRST;

	mix ^= (key->words[2] + key->words[3]) * FLOW_HASH_SECOND;
	mix = (mix + key->ports) * FLOW_HASH_FIRST;
	return mix >> (64 - FLOW_SLOTS_LOG2);
}

static __always_inline int same_flow(const union flow_slot *one, const union flow_slot *other)
{
	return one->words[4] == other->words[4] && one->words[0] == other->words[0] &&
	       one->words[1] == other->words[1] && one->words[2] == other->words[2] &&
	       one->words[3] == other->words[3];
}

static __always_inline void *ring_of(union flow_slot *key)
{
	__u32 home = flow_home(key);

	key->state = FLOW_USED;
#pragma unroll
	for (int probe = 0; probe < FLOW_PROBES; probe++) {
		__u32 at = (home + probe) & (FLOW_SLOTS - 1);
		const union flow_slot *slot = flow_slot_at(at);

		if (!slot)
			return NULL;
		if (same_flow(slot, key))
			return ring_at(at);
		if (slot->state == FLOW_EMPTY)
			return NULL;
	}
	return NULL;
}

#endif
