/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tunnels that programs of others run over a TUN device: which packet is in a datagram, though its bytes do not tell.
 *
 * Whoever reads a packet from a TUN and then sends a datagram, in one task, has sent that packet. tun_reads.c notes in the
 * task's queue what it reads; egress takes the first entry from it that the datagram can hold by its length. Nothing is
 * guessed: where two answers are possible, the packet is left alone and counted.
 *
 * A queue is the business of its own task alone, in process context: so nothing here is locked.
 */
#ifndef QOSCTL_FOLLOW_H
#define QOSCTL_FOLLOW_H

#include "abi.h"

/* Of softirq_count(): serving one; what merely disables them counts in steps of two (include/linux/preempt.h). */
#define SERVING_SOFTIRQ 0x100

/* Times are in ticks of 2^27 ns, 0.13 s: 32 bits of them last for 18 years. */
#define TICK_SHIFT 27
/* A packet that has waited for so many ticks will not be sent: two seconds. */
#define ENTRY_LIFETIME 15
/* Who ran before we looked may have read packets that we have not seen, and has sent them after so many ticks. */
#define UNSEEN_TICKS 2
/* After so many datagrams that fit nothing the cipher may be another one. */
#define MISFITS_MAX 8

/* An IP header begins below. */
#define IP_AT_MASK 0x3f

/*
 * No two datagrams have the same eight bytes here: most of a DTLS record's number and the length behind it, or OpenVPN's
 * packet id and tag, HMAC or IV.
 */
#define UNIQUE_AT 4
#define FIRST_BYTES (UNIQUE_AT + sizeof(__u64))
/* Epoch and number of a DTLS record; OpenVPN's packet id (AEAD) behind opcode and peer id, or the opcode alone. */
#define NUMBER_AT 3
#define PACKET_ID_AT 4
#define PACKET_ID_AT_NO_PEER 1
/*
 * Queues on a path are seldom longer than this: whoever leaves later overtakes no more. In units of 2^20 ns: 0.1 s.
 */
#define OVERTAKES_WITHIN 96
#define SENT_SHIFT 20
#define SENT_DSCP_BITS 7

/* In place of a class: read from a device that nobody follows. */
#define NOT_FOLLOWED 0xff

static __always_inline const void *current_task(void)
{
	return bpf_get_current_task_btf();
}

static __always_inline __u64 start_time_of(const void *task)
{
	return *(const __u64 *)(task + TASK_START_TIME);
}

/*
 * Whether a softirq interrupted the task that is current: then it has nothing to do with the packet at hand, which is
 * forwarded, or was kept until its neighbour was known. On x86 a task has no count of its own, and the CPU's is no symbol
 * that every kernel shows; but softirqs run on a stack of their own there (CONFIG_SOFTIRQ_ON_OWN_STACK), as we do then.
 */
static __always_inline int interrupted(const void *task)
{
#ifdef SOFTIRQ_COUNT_IN_TASK
	return *(const __u32 *)(task + SOFTIRQ_COUNT_IN_TASK) & SERVING_SOFTIRQ;
#else
	char here;
	__u64 distance = (__u64)&here - (__u64)task;

	/* The verifier lets pointers be subtracted, and nothing else, to get at the address. */
	asm volatile("" : "+r"(distance));
	distance += bpf_get_current_task();
	return distance - *(const __u64 *)(task + TASK_STACK) >= TASK_STACK_BYTES;
#endif
}

/* A task's queue, NULL where nothing that it has read was followed since passtos was switched on. */
static __always_inline struct read_queue *valid_queue_of(const void *task, const struct control *control)
{
	const struct follow_pattern *pattern;
	struct read_queue *queue = queue_of(&task);

	/* The memory of a task that has ended is another's some day. */
	if (!queue || queue->start_time != start_time_of(task) || queue->passtos != control->passtos)
		return NULL;
	pattern = pattern_at(queue->pattern);
	return pattern && pattern->since == queue->since ? queue : NULL;
}

/*
 * Something left that is no datagram of ours to account for, TCP say: perhaps a packet went that way, and its entry stays.
 * From now on a datagram has to fit one entry alone, until one does or the queue is empty.
 */
static __always_inline void doubt_sender(const struct control *control)
{
	const void *task = current_task();
	struct read_queue *queue;

	if (interrupted(task))
		return;
	queue = valid_queue_of(task, control);
	if (queue && queue->count)
		queue->doubt = 1;
}

/*
 * How long a datagram is that holds a packet, by protocol and cipher: `base` bytes, and the packet with `extra` bytes, up to
 * whole blocks where it is padded. DTLS: record header 13, and AnyConnect's type byte (RFC 6347; 5288, 7905, 6655 for AEADs;
 * 5246 section 6.2.3.2 for CBC, and 7366 where the MAC comes last). OpenVPN: opcode and peer id 4, without the peer id 1.
 */
#define FORMATS(X)                                                       \
	X(0, 13 + 8 + 16, 1, 1)       /* DTLS: AES-GCM, AES-CCM */       \
	X(1, 13 + 16, 1, 1)           /* ChaCha20-Poly1305, AES-CCM-8 */ \
	X(2, 13 + 16, 1 + 20 + 1, 16) /* AES-CBC, HMAC-SHA1 */           \
	X(3, 13 + 16, 1 + 32 + 1, 16) /* HMAC-SHA256 */                  \
	X(4, 13 + 16, 1 + 48 + 1, 16) /* HMAC-SHA384 */                  \
	X(5, 13 + 16 + 20, 1 + 1, 16) /* the same, MAC last */           \
	X(6, 13 + 16 + 32, 1 + 1, 16)                                    \
	X(7, 13 + 16 + 48, 1 + 1, 16)                                    \
	X(8, 4 + 4 + 16, 0, 1)        /* OpenVPN: AEAD */                \
	X(9, 4 + 4 + 16, 1, 1)        /* with a byte for compression */  \
	X(10, 4 + 20 + 16, 4 + 1, 16) /* AES-CBC, HMAC-SHA1 */           \
	X(11, 4 + 32 + 16, 4 + 1, 16) /* HMAC-SHA256 */                  \
	X(12, 4 + 64 + 16, 4 + 1, 16) /* HMAC-SHA512 */                  \
	X(13, 1 + 4 + 16, 0, 1)       /* the same without a peer id */   \
	X(14, 1 + 4 + 16, 1, 1)                                          \
	X(15, 1 + 20 + 16, 4 + 1, 16)                                    \
	X(16, 1 + 32 + 16, 4 + 1, 16)                                    \
	X(17, 1 + 64 + 16, 4 + 1, 16)
#define FORMATS_DTLS 0x000ff
#define FORMATS_OPENVPN 0x01f00
#define FORMATS_OPENVPN_NO_PEER 0x3e000
/* Those that have a number in clear: all but OpenVPN's with CBC. */
#define FORMATS_NUMBERED (FORMATS_DTLS | 0x06300)

#define OPENVPN_OPCODE 0xf8
#define OPENVPN_DATA_V1 (6 << 3)
#define OPENVPN_DATA_V2 (9 << 3)

/* Which formats a datagram that begins like this can have; 0 for what holds no packet. */
static __always_inline __u32 formats_of(const __u8 *first)
{
	if (first[0] == RECORD_APPLICATION_DATA)
		/* 1.2, 1.0, and the version of before the standard that AnyConnect has kept */
		return (first[1] == 0xfe && (first[2] == 0xfd || first[2] == 0xff)) || (first[1] == 1 && !first[2])
			       ? FORMATS_DTLS
			       : 0;
	if ((first[0] & OPENVPN_OPCODE) == OPENVPN_DATA_V2)
		return FORMATS_OPENVPN;
	return (first[0] & OPENVPN_OPCODE) == OPENVPN_DATA_V1 ? FORMATS_OPENVPN_NO_PEER : 0;
}

/* In which of `formats` a packet of `length` makes a datagram of `payload`. No branches: there would be too many ways. */
static __always_inline __u32 fitting(__u64 length, __u64 payload, __u32 formats)
{
	__u32 found = 0;

#define FITS(at, base, extra, block)                                                        \
	found |= ((((base) + ((length + (extra) + (block) - 1) & ~((block) - 1ULL))) ^ payload) - 1) >> 63 << (at);
	FORMATS(FITS)
#undef FITS
	return found & formats;
}

/*
 * A record left out before this one: either it was lost below its program, and the packet in it with it, or it belongs to
 * another session. Then a datagram has to fit one entry alone, until one does or the queue is empty.
 */
static __always_inline void note_number(struct read_queue *queue, const __u8 *first)
{
	__be64 in_clear;
	__u64 number;

	__builtin_memcpy(&in_clear, first + NUMBER_AT, sizeof(in_clear));
	number = __be64_to_cpu(in_clear);
	/* 0: none before. The same: this one, at a second device. */
	if (queue->number && number != queue->number + 1 && number != queue->number)
		queue->doubt = 1;
	if (number < queue->number)
		queue->session++;
	queue->number = number;
}

/* A server numbers the packets to each client, and under each key, anew: these are in the first four bytes. */
static __always_inline void note_packet_id(struct read_queue *queue, const __u8 *first, __u32 formats)
{
	__be32 id;

	if (formats == FORMATS_OPENVPN) {
		__builtin_memcpy(&id, first + PACKET_ID_AT, sizeof(id));
		__builtin_memcpy(&queue->session, first, sizeof(queue->session));
	} else {
		__builtin_memcpy(&id, first + PACKET_ID_AT_NO_PEER, sizeof(id));
		queue->session = first[0];
	}
	queue->number = bpf_ntohl(id);
}

/*
 * Count the datagram that leaves with `dscp` where one of another DSCP has left a moment before, so many numbers below that a
 * receiver drops it as a replay if this one arrives first.
 */
static __always_inline void note_window(struct read_queue *queue, __u32 dscp)
{
	struct sent_packet *before = &queue->sent_before[queue->number & (REPLAY_WINDOW - 1)];
	struct follow_counters *counters;
	__u32 now = bpf_ktime_get_coarse_ns() >> SENT_SHIFT;
	__u32 age = ((now << SENT_DSCP_BITS) - before->when_and_dscp) >> SENT_DSCP_BITS;

	if (!queue->formats || queue->formats & ~FORMATS_NUMBERED)
		return;
	if (before->session == queue->session && (before->when_and_dscp & (DSCP_COUNT * 2 - 1)) != dscp &&
	    age < OVERTAKES_WITHIN) {
		counters = follow_counters_of(queue->pattern);
		if (counters)
			counters->beyond_window += 1;
	}
	before->session = queue->session;
	before->when_and_dscp = now << SENT_DSCP_BITS | dscp;
}

/*
 * OpenVPN reads no packet before it has sent the one before, or has given it up (io_wait_dowork() and p2mp_iow_flags() in
 * its forward.c and multi_io.c): what was read last is in the datagram, and what waits before it never left.
 */
static __always_inline void leave_last(struct read_queue *queue)
{
	struct follow_counters *counters = follow_counters_of(queue->pattern);
	__u32 before = queue->count - 1;

	if (!queue->count)
		return;
	if (counters)
		counters->passed_over += before;
	queue->first += before;
	queue->count = 1;
}

/*
 * The class of the packet in this datagram, in `dscp` if the answer is PARSED; and in `sender` the queue of whoever sends it, if
 * it is its next datagram.
 */
static __always_inline enum outcome class_by_read(struct __sk_buff *skb, const struct control *control,
						  struct cursor *at, __u32 *dscp, struct read_queue **sender)
{
	const void *task = current_task();
	int not_its_own = interrupted(task);
	struct read_queue *queue;
	__u32 formats, allowed, payload, tick, found;
	struct follow_counters *counters;
	enum outcome result;
	__u8 copy[FIRST_BYTES];
	const __u8 *first;
	__u64 unique;

	first = header(skb, at->udp + sizeof(struct udphdr), copy, sizeof(copy));
	allowed = formats = first ? formats_of(first) : 0;
	if (not_its_own && !formats)
		return OUTCOME_NO_FLOW;
	queue = valid_queue_of(task, control);
	if (!queue)
		return OUTCOME_NO_FLOW;
	if (not_its_own) { /* perhaps one that this very task sent, and that waited for the answer of its neighbour */
		queue->doubt = 1;
		return OUTCOME_NO_FLOW;
	}
	if (!first || !formats)
		return OUTCOME_NOT_DATA;
	result = check_lengths(skb, at, &payload);
	if (result != PARSED)
		return result;
	__builtin_memcpy(&unique, first + UNIQUE_AT, sizeof(unique));
	if (unique == queue->last && queue->answer) { /* at a second device, below the first: a VLAN's, say */
		*dscp = queue->dscp;
		if (queue->answer == PARSED)
			return PARSED;
		return queue->answer == OUTCOME_AMBIGUOUS ? OUTCOME_AMBIGUOUS : OUTCOME_NO_FLOW;
	}
	if (skb->gso_segs > 1) { /* no program that is followed makes batches: what is in one cannot be told */
		queue->doubt = 1;
		return OUTCOME_UNMATCHED;
	}
	*sender = queue;
	if (formats == FORMATS_DTLS) {
		note_number(queue, first);
	} else {
		note_packet_id(queue, first, formats);
		leave_last(queue);
	}
	tick = bpf_ktime_get_coarse_ns() >> TICK_SHIFT; /* a jiffy behind the clock of tun_reads.c */
	if ((__s32)(tick - queue->trusted_from) < 0)
		queue->doubt = 1;
	if (queue->formats & formats && !queue->doubt) /* else one entry may fit by the format of another's packet */
		allowed = queue->formats & formats;

	/*
	 * What is known and what is found is kept in the queue, as numbers that the verifier does not follow: else it would try
	 * each entry with each way here, and with each entry that was found before.
	 */
	*(volatile __u32 *)&queue->ip = at->ip;
	*(volatile __u32 *)&queue->version = at->version;
	at->ip = *(volatile __u32 *)&queue->ip & IP_AT_MASK;
	at->version = *(volatile __u32 *)&queue->version;
	queue->found = 0;
	queue->several = 0;
	queue->differ = 0;
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < QUEUE_ENTRIES; n++) {
		const struct read_packet *packet = &queue->packets[(queue->first + n) & (QUEUE_ENTRIES - 1)];
		__u32 here;

		if (n >= queue->count)
			break;
		here = fitting(packet->length, payload, allowed);
		if (!here || (__s16)(tick - packet->tick) > ENTRY_LIFETIME)
			continue;
		if (queue->found && (queue->doubt || here != queue->fits)) {
			queue->several = 1;
			if (packet->dscp == queue->dscp)
				continue;
			queue->differ = 1;
			break;
		}
		if (queue->found) /* by the same format: then the first one it is */
			continue;
		queue->found = n + 1;
		queue->fits = here;
		queue->dscp = packet->dscp;
		if (here == allowed && !queue->doubt)
			break;
	}
	found = queue->found;
	if (!found) {
		if (queue->count) { /* perhaps one of them was in it, sealed in another way */
			queue->doubt = 1;
			if (++queue->misfits > MISFITS_MAX)
				queue->formats = 0;
		}
		return OUTCOME_UNMATCHED;
	}
	*dscp = queue->dscp;
	queue->misfits = 0;
	queue->first += found;
	queue->count -= found;
	counters = follow_counters_of(queue->pattern);
	if (counters) {
		counters->passed_over += found - 1;
		if (formats == FORMATS_DTLS)
			counters->dtls += 1;
		else
			counters->openvpn += 1;
	}
	if (!queue->several) {
		queue->formats = queue->fits;
		queue->doubt = 0;
	}
	if (!queue->count)
		queue->doubt = 0;
	queue->sent = 1;
	result = *dscp == NOT_FOLLOWED ? OUTCOME_NO_FLOW : PARSED;
	if (queue->differ || (__s32)(tick - queue->trusted_from) < 0)
		result = OUTCOME_AMBIGUOUS;
	queue->last = unique;
	queue->answer = result;
	return result;
}

#endif
