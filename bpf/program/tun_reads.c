/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What programs read from TUN devices that are followed, noted in the reading task's queue (follow.h).
 *
 * The tracepoint skb_copy_datagram_iovec is behind the TUN's own queue and its drops, so entries come in the order in which
 * the program gets the packets. It fires for every datagram that anybody on the machine reads, too: what was received by a
 * socket keeps no device (TCP), or something else in the device's place (UDP, a number that is no kernel address), and
 * leaves after one load.
 */
#include <linux/bpf.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "stamp.h"
#include "follow.h"

#define ARPHRD_NONE 0xfffe /* linux/if_arp.h, which wants the C library */

/* Kernel memory that the verifier knows nothing of. */
#define READ(into, at) bpf_probe_read_kernel(&(into), sizeof(into), (const void *)(at))

/* The number of the pattern that the device's name matches; FOLLOW_PATTERNS if there is none. */
static __always_inline __u32 pattern_of(__u64 device, __u32 *since)
{
	__u64 name[2];

	if (READ(name, device + DEVICE_NAME))
		return FOLLOW_PATTERNS;
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FOLLOW_PATTERNS; n++) {
		const struct follow_pattern *pattern = pattern_at(n);

		if (!pattern)
			return FOLLOW_PATTERNS;
		*since = pattern->since;
		if (*since && !(((name[0] ^ pattern->name[0]) & pattern->mask[0]) |
				((name[1] ^ pattern->name[1]) & pattern->mask[1])))
			return n;
	}
	return FOLLOW_PATTERNS;
}

static __always_inline int is_tun_here(__u64 device)
{
	__u64 namespace, cookie;
	__u16 type;

	return !READ(type, device + DEVICE_TYPE) && type == ARPHRD_NONE &&
	       !READ(namespace, device + DEVICE_NAMESPACE) && !READ(cookie, namespace + NAMESPACE_COOKIE) &&
	       cookie == NAMESPACE;
}

/* Whether the read gives the program more than one packet (IFF_VNET_HDR): then it splits what we cannot. */
static __always_inline int is_batch(__u64 skb)
{
	__u64 head;
	__u32 end;
	__u16 gso_size;

	return READ(head, skb + SKB_HEAD) || READ(end, skb + SKB_END) ||
	       READ(gso_size, head + end + SHARED_INFO_GSO_SIZE) || gso_size;
}

static __always_inline __u8 class_of(__u64 skb)
{
	__u64 data;
	__u16 first;

	if (READ(data, skb + SKB_DATA) || READ(first, data))
		return NOT_FOLLOWED;
	first = bpf_ntohs(first);
	if (first >> 12 == 4)
		return dscp_of(traffic_class_ipv4(first)).value;
	if (first >> 12 == 6)
		return dscp_of(traffic_class_ipv6(first)).value;
	return NOT_FOLLOWED;
}

static __always_inline struct read_queue *queue_of_reader(const struct control *control, __u32 pattern, __u32 since)
{
	const void *task = current_task();
	__u64 started = start_time_of(task);
	struct read_queue *queue = queue_of(&task);
	__u32 seen_since;

	if (queue && queue->start_time == started && queue->passtos == control->passtos &&
	    (pattern == FOLLOW_PATTERNS || (queue->pattern == pattern && queue->since == since)))
		return queue;
	if (pattern == FOLLOW_PATTERNS)
		return NULL; /* never read from a device that is followed */
	if (!queue) {
		struct read_queue *empty = empty_queue();

		if (!empty)
			return NULL;
		put_queue(&task, empty);
		queue = queue_of(&task);
		if (!queue)
			return NULL;
	}
	queue->start_time = started;
	queue->passtos = control->passtos;
	queue->pattern = pattern;
	queue->since = since;
	queue->count = queue->formats = queue->misfits = queue->sent = queue->doubt = 0;
	queue->number = 0;
	queue->session++; /* what it has sent before is not compared with */
	seen_since = (__s32)(since - control->passtos) > 0 ? since : control->passtos;
	queue->trusted_from = seen_since;
	if ((__s32)((__u32)(started >> TICK_SHIFT) - seen_since) <= 0)
		queue->trusted_from += UNSEEN_TICKS;
	return queue;
}

int qosctl_tun_reads(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 skb = ctx->args[0], device, socket;
	struct follow_counters *counters;
	struct read_packet *packet;
	struct read_queue *queue;
	struct control *control;
	__u32 pattern, since = 0;
	__u8 class = NOT_FOLLOWED;

	if (READ(device, skb + SKB_DEV) || !(device >> 63))
		return 0;
	control = control_now();
	if (!control || !control->passtos)
		return 0;
	/* A packet that a socket has received: one of a capture. What waits in a TUN is nobody's. */
	if (READ(socket, skb + SKB_SK) || socket)
		return 0;
	pattern = pattern_of(device, &since);
	if (pattern < FOLLOW_PATTERNS && !is_tun_here(device))
		pattern = FOLLOW_PATTERNS;
	queue = queue_of_reader(control, pattern, since);
	if (!queue)
		return 0;
	counters = follow_counters_of(queue->pattern);
	if (!counters)
		return 0;
	if (pattern < FOLLOW_PATTERNS) {
		counters->reads += 1;
		if (is_batch(skb)) {
			counters->batches += 1;
			queue->doubt = 1;
			return 0;
		}
		class = class_of(skb);
	}
	/*
	 * Programs send all that they have read before they read on. One that has sent some of it, and reads on, has lost the
	 * rest, or keeps it: from which of both it follows whose class comes next.
	 */
	if (queue->sent && queue->count)
		queue->doubt = 1;
	queue->sent = 0;
	if (queue->count >= QUEUE_ENTRIES) { /* they are not sent by this task, or not as datagrams */
		counters->forgotten += 1;
		queue->doubt = 1;
		queue->first++;
		queue->count--;
	}
	packet = &queue->packets[(queue->first + queue->count) & (QUEUE_ENTRIES - 1)];
	packet->length = ctx->args[1];
	packet->dscp = class;
	packet->tick = bpf_ktime_get_ns() >> TICK_SHIFT;
	queue->count++;
	return 0;
}
